"""What changes over a bi-mask search: the weight of the importance score, and the share of masked patches."""


def linear(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at the last of `steps`, and `end` from there on."""
    if steps <= 1:
        return end
    return start + (end - start) * min(1.0, step / (steps - 1))


__all__ = ["linear"]
