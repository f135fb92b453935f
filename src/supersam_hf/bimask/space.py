"""What the bi-mask search may shrink, and to which sizes (OFB, Table 1). Pure data."""

from dataclasses import dataclass, field

from ..fields import Checked, Count, FieldError, Fraction


@dataclass
class SearchSpace(Checked):
    """Sizes that each kind of submodule may take: (lowest, highest, step) as in OFB's Table 1; `None`: not searched.

    The highest value is the full size (1, or `None` for heads) and is always among the options.

    Raises:
        ValueError: If a range is not ascending, ends elsewhere than at the full size, or has no positive step.
    """

    qkv_ratio: list[Fraction] | None = field(default_factory=lambda: [1 / 4, 1, 1 / 8])
    """Q-K-V channels of a head, as a fraction; null: not searched."""
    mlp_ratio: list[Fraction] | None = field(default_factory=lambda: [1 / 4, 1, 1 / 8])
    """MLP width, as a fraction; null: not searched."""
    heads: list[Count | None] | None = field(default_factory=lambda: [1, None, 2])
    """Heads of a layer (highest null: all of them; the released code begins at 2); null: not searched."""
    embedding_ratio: list[Fraction] | None = field(default_factory=lambda: [1 / 2, 1, 1 / 32])
    """Width of the patch embedding, as a fraction; null: not searched."""
    embedding_max_step: Count | None = None
    """Longest step of the embedding's width in channels (the released code: 12); null: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("qkv_ratio", "mlp_ratio", "embedding_ratio"):
            values = getattr(self, name)
            if values is not None and not _is_ratio_range(values):
                raise FieldError(
                    name, f"must be [lowest, 1, step] with 0 < lowest <= 1 and a positive step, or null; got {values}."
                )
        if self.heads is not None and not _is_head_range(self.heads):
            raise FieldError(
                "heads",
                "must be [lowest, null, step] with lowest and step 1 or more (null stands for all heads "
                f"of the layer), or null; got {self.heads}.",
            )

    @classmethod
    def official(cls) -> "SearchSpace":
        """The released code's: heads from 2, embedding in steps of at most 12 channels."""
        return cls(heads=[2, None, 2], embedding_max_step=12)

    def channel_sizes(self, head_dim: int) -> list[int]:
        """Options for the Q-K-V channels of a head, ascending."""
        return ratio_sizes(self.qkv_ratio, head_dim)

    def mlp_sizes(self, intermediate_size: int) -> list[int]:
        """Options for an MLP width, ascending."""
        return ratio_sizes(self.mlp_ratio, intermediate_size)

    def embedding_sizes(self, hidden_size: int) -> list[int]:
        """Options for the embedding's width, ascending."""
        if self.embedding_ratio is None or self.embedding_max_step is None:
            return ratio_sizes(self.embedding_ratio, hidden_size)
        low, high, step = self.embedding_ratio
        step = min(step, self.embedding_max_step / hidden_size)
        return ratio_sizes([low, high, step], hidden_size)

    def head_sizes(self, num_heads: int) -> list[int]:
        """Options for a layer's heads, ascending.

        Raises:
            ValueError: If the layer has fewer heads than the lowest option.
        """
        if self.heads is None:
            return [num_heads]
        low, step = self.heads[0] or 1, self.heads[2] or 1
        if low > num_heads:
            raise ValueError(f"`space.heads` begins at {low}, but a layer of this model has {num_heads} heads.")
        return sorted({*range(low, num_heads + 1, step), num_heads})


def ratio_sizes(ratios: list[float] | None, full: int) -> list[int]:
    """Sizes from lowest to highest ratio of `full`, rounded down to whole units, `full` included; ascending."""
    if ratios is None:
        return [full]
    low, high, step = ratios
    count = int((high - low) / step + 1e-6) + 1
    sizes = {max(1, int((low + i * step) * full + 1e-6)) for i in range(count)}
    return sorted({*sizes, full})


def _is_ratio_range(values: list[float]) -> bool:
    return len(values) == 3 and 0 < values[0] <= 1 and values[1] == 1 and values[2] > 0


def _is_head_range(values: list[int | None]) -> bool:
    if len(values) != 3 or values[1] is not None:
        return False
    low, _, step = values
    return low is not None and step is not None and low >= 1 and step >= 1


__all__ = ["SearchSpace", "ratio_sizes"]
