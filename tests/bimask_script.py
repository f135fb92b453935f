"""A bi-mask search for tests, and in processes of its own where it is killed or spread over two.

usage: bimask_script.py OUTPUT_DIR [KILL_AFTER_STEP | bf16]
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from classify_script import stripes, tiny_vit

from supersam_hf.bimask.space import SearchSpace
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.training.bimask import train_bimask
from supersam_hf.training.bimask_arguments import BiMaskArguments
from supersam_hf.training.engine import Engine


def search_arguments(**values: Any) -> BiMaskArguments:
    """A search of 24 steps in which cells die early and often."""
    defaults: dict[str, Any] = {
        "max_steps": 30,
        "search_steps": 24,
        "prune_steps": 3,
        "alpha_learning_rate": 0.3,
        "budget_weight": 500.0,
        "learning_rate": 1e-3,
        "score_learning_rate": 5e-2,
        "save_steps": 5,
        "logging_steps": 1,
    }
    return BiMaskArguments(**{**defaults, **({} if "max_params" in values else {"max_macs": 0.5}), **values})


def search(
    output_dir: Path | str, args: BiMaskArguments | None = None, kill_after: int | None = None, batch_size: int = 4
) -> tuple[OfbViTForImageClassification, dict[str, Any]]:
    def evaluate(engine: Engine) -> dict[str, float]:
        if engine.global_step == kill_after:
            os._exit(9)  # as SIGKILL: nothing is flushed or cleaned up
        return {}

    args = args or search_arguments()
    if kill_after is not None:
        args.eval_steps = 1
    return train_bimask(tiny_vit(), SearchSpace(), stripes(batch_size=batch_size), args, output_dir, evaluate=evaluate)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    option = sys.argv[2] if len(sys.argv) > 2 else ""
    arguments = search_arguments(mixed_precision="bf16") if option == "bf16" else None
    found, report = search(folder, arguments, kill_after=int(option) if option.isdigit() else None)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(found.state_dict(), folder / "found.pt")
