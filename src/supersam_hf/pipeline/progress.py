"""How a training of a SAM or a supernet comes on: mIoU on the holdout, while it trains."""

from collections.abc import Callable, Mapping

from ..evaluation import evaluate
from ..models.supersam import Subnet
from ..training.arguments import EngineArguments
from ..training.engine import Engine
from .context import Run


def holdout_metrics(
    run: Run, args: EngineArguments, subnets: Mapping[str, Subnet | None]
) -> Callable[[Engine], dict[str, float]] | None:
    """What a training takes as `evaluate`: `miou_<name>` of each subnet on the holdout; None if it asks for none.

    Args:
        args ([`EngineArguments`]): Of the training; `eval_steps` says whether it asks.
        subnets (`dict`): By name; None is the model as it is.
    """
    if not args.eval_steps:
        return None
    holdout = run.holdout_loader()

    def measured(engine: Engine) -> dict[str, float]:
        options = {"multimask": False, "accelerator": engine.accelerator}
        return {f"miou_{name}": evaluate(engine.unwrapped, holdout, s, **options).miou for name, s in subnets.items()}

    return measured


__all__ = ["holdout_metrics"]
