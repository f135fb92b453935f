"""`torch.compile` a layer at a time, so that a few graphs serve all subnets."""

from typing import Any


def compile_layers(model: Any, **options: Any) -> None:
    """Compiles every layer of the image encoder, in place (regional compilation).

    Layers of a kind share their graphs, and the widths of subnets become symbols in them. The whole encoder under
    `torch.compile` would take a graph a subnet, give up after `torch._dynamo.config.recompile_limit` (8) of them, and
    run without being compiled from then on, silently. Here what cannot be compiled raises.

    For supernets, run with `subnet=`. A subnet that is extracted has fixed widths: `torch.compile(model)` whole.

    Args:
        model (`SuperSamModel`): Or the `vision_encoder` alone.
        options (*optional*): Of `torch.compile`, such as `mode` or `backend`.
    """
    encoder = getattr(model, "vision_encoder", model)
    for layer in encoder.layers:
        layer.compile(fullgraph=True, **options)


__all__ = ["compile_layers"]
