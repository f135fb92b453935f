"""What deployed forms of one model take and give, side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..hub import tables
from ..measure import compare_latency


@dataclass(frozen=True)
class Deployed:
    """One form of a model.

    Args:
        name (`str`): "PyTorch", "ONNX Runtime, int8", ...
        model: Called as the PyTorch model is.
        bytes (`int`): What its weights, or its files, take.
        difference (`float`, *optional*): Largest difference of its outputs, as a share of the largest (see
            [`check_outputs`]); None of the model that the others are compared with.
    """

    name: str
    model: Any
    bytes: int
    difference: float | None = None


def deployment_rows(
    forms: Sequence[Deployed],
    inputs: Mapping[str, Any],
    *,
    rounds: int = 10,
    quality: Callable[[Any], float] | None = None,
) -> list[dict[str, Any]]:
    """Size, latency and quality of each form, timed in interleaved rounds; ratios are to the first.

    Args:
        forms (`Sequence[Deployed]`): Whose models run on the CPU.
        inputs (`Mapping[str, Any]`): Arguments of a timed call.
        rounds (`int`): How often each is timed.
        quality (`Callable`, *optional*): mIoU or top-1 of a model, in [0, 1].

    Returns:
        `list[dict]`: Plain JSON data: `name`, `bytes`, `ms`, `ratio`, `ratio_p10`, `ratio_p90`, `difference`,
        `quality`.
    """

    def forward(model: Any) -> Callable[[], Any]:
        return torch.inference_mode()(lambda: model(**inputs))

    timed = compare_latency({form.name: forward(form.model) for form in forms}, rounds)
    rows = []
    for form in forms:
        latency = timed[form.name]
        rows.append(
            {
                "name": form.name,
                "bytes": form.bytes,
                "ms": latency.latency.median_ms,
                "ratio": latency.ratio,
                "ratio_p10": latency.ratio_p10,
                "ratio_p90": latency.ratio_p90,
                "difference": form.difference,
                "quality": None if quality is None else quality(form.model),
            }
        )
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], quality: str | None = None) -> str:
    """The rows as a Markdown table, speeds against the first; `quality` names that column, if there is one."""
    first = rows[0]
    columns = {
        "form": [row["name"] for row in rows],
        "size": [f"{row['bytes'] / 1e6:.1f} MB" for row in rows],
        "latency": [f"{row['ms']:.1f} ms" for row in rows],
        "speed (10 % to 90 % of the rounds)": ["" if row is first else _speed(row) for row in rows],
        "largest difference": ["" if row["difference"] is None else f"{row['difference']:.1e}" for row in rows],
    }
    if quality:
        columns[quality] = [f"{row['quality']:.4f}" for row in rows]
    told = f"Speed is against {first['name']}; differences are those of outputs, as a share of the largest."
    return tables.table(columns) + (f"\n\n{told}" if len(rows) > 1 else "")


def _speed(row: Mapping[str, Any]) -> str:
    return f"{tables.speed(row['ratio'])} ({1 / row['ratio_p90']:.2f} to {1 / row['ratio_p10']:.2f})"
