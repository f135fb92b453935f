"""The measurement of one model of a run, of either method."""

from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel

from ..files import write_json
from ..measure import measure_model
from .folder import RunFolder


def write_measurement(run: RunFolder, args: Any, model: PreTrainedModel) -> None:
    """`measurement.json`: size, work, latency, throughput and peak memory, printed too.

    Args:
        args (`Any`): The recipe's `measure` section.
    """
    measured = measure_model(
        model,
        batch_size=args.batch_size,
        warmup=args.warmup,
        repeats=args.repeats,
        memory=torch.device(run.state.device).type != "mps",
    )
    write_json(run.folder / "measurement.json", asdict(measured))
    print((run.folder / "measurement.json").read_text(), end="")
