"""`torch.compile` a layer at a time, so that a few graphs serve all subnets."""

from typing import Any


# A graph each of windowed and global layers, whole and narrowed MLP, whole and narrowed heads, the first two of them
# twice (widths become symbols when a second one is seen), in training and without gradients: 20.
MAX_GRAPHS = 32


def compile_layers(encoder: Any, **options: Any) -> None:
    """Compiles every layer of an image encoder, in place (regional compilation).

    Layers of a kind share their graphs, and the widths of subnets become symbols in them: at most 10 graphs in
    training, as many for evaluation. The whole encoder under `torch.compile` takes a graph a subnet, gives up after
    `torch._dynamo.config.recompile_limit` (8) of them, and runs without being compiled from then on, silently. Here
    what cannot be compiled raises, and that limit becomes 32 if it is lower, for the whole process.

    For supernets, run with `subnet=`. A subnet that is extracted has fixed widths: `torch.compile(model)` whole.

    Args:
        encoder (`SuperSamVisionEncoder`): `model.vision_encoder`.
        options (*optional*): Of `torch.compile`, such as `mode` or `backend`.
    """
    import torch._dynamo  # takes a second

    torch._dynamo.config.recompile_limit = max(MAX_GRAPHS, torch._dynamo.config.recompile_limit)
    for layer in encoder.layers:
        layer.compile(fullgraph=True, **options)


__all__ = ["compile_layers"]
