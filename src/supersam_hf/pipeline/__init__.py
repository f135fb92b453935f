"""The stages of a SuperSAM run, from a recipe to a standalone subnet with its report."""

from .runner import STAGES, run_pipeline, run_verb


__all__ = ["STAGES", "run_pipeline", "run_verb"]
