"""OFB Swin configuration: stock Swin's, plus the width of every stage and the widths of every block."""

from typing import Any

from huggingface_hub.dataclasses import strict, validated_field
from huggingface_hub.errors import StrictDataclassError
from transformers import SwinConfig
from transformers.activations import ACT2FN


# Of what `save_pretrained` writes: raised when a folder of today would no longer be read rightly by yesterday's code.
FORMAT_VERSION = 1
BLOCK_WIDTHS = ("block_num_heads", "block_head_dims", "block_intermediate_sizes")
# No network is so wide, or so deep: what is beyond is a slip, and would fill the memory.
MOST, MOST_LAYERS, MOST_STAGES = 2**20, 1000, 8


def bounded(default: Any, least: float, most: float = MOST) -> Any:
    """A field of a config whose value, or each entry of a list, lies in [least, most]; None, where the type allows
    it, is filled in later."""

    def check(value: Any) -> None:
        for entry in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(entry, bool) or (entry is not None and not least <= entry <= most):
                raise ValueError(f"must lie in {least} to {most}, got {value!r}")

    return validated_field(check, default=default)


def activation(default: str) -> Any:
    """A field of a config that names one of transformers' activations."""

    def check(value: str) -> None:
        if value not in ACT2FN:
            raise ValueError(f"must be one of {sorted(ACT2FN)}, got {value!r}")

    return validated_field(check, default=default)


def _adopt_stock_swin(config_dict: dict[str, Any], source: Any) -> dict[str, Any]:
    """Turns the data of a Swin config into an OFB Swin's; raises `ValueError` for any other type."""
    model_type = config_dict.get("model_type")
    if model_type not in ("swin", OfbSwinConfig.model_type):
        raise ValueError(
            f"`{source}` holds a checkpoint of type {model_type!r}; OfbSwin is made from a Swin (`model_type` 'swin', "
            "such as microsoft/swin-tiny-patch4-window7-224; Swin v2 is another architecture)."
        )
    config_dict["model_type"] = OfbSwinConfig.model_type
    return config_dict


@strict
class OfbSwinConfig(SwinConfig):
    r"""
    Configuration of a Swin Transformer, or of the smaller network found inside one. Every argument of [`SwinConfig`],
    and:

    Args:
        hidden_sizes (`list[int]`, *optional*):
            Channels of each stage; by default `embed_dim`, doubled by every stage after the first. `embed_dim` becomes
            the first of them, `hidden_size` the last.
        block_num_heads (`list[int]`, *optional*):
            Attention heads of every block, stage after stage (`sum(depths)` of them); by default the stage's
            `num_heads`.
        block_head_dims (`list[int]`, *optional*):
            Channels of a head, for every block; by default `hidden_sizes` over `num_heads` of its stage.
        block_intermediate_sizes (`list[int]`, *optional*):
            Hidden units of the MLP of every block; by default `mlp_ratio` times the stage's channels.
        query_pre_attn_scalars (`list[int]`, *optional*):
            For each stage, the head width whose inverse square root scales the attention logits; by default its first
            block's. A network with narrower heads keeps the original's.
        search (`dict`, *optional*):
            How this network was found. A record: nothing is read from it.
        format_version (`int`, *optional*, defaults to 1):
            Version of the format of the saved model. A newer one than this code knows is refused.

    Lists of the original's sizes are made here, so that every saved config names all widths. Images and patches are
    square: `image_size` and `patch_size` are one number each.
    """

    model_type = "ofb_swin"

    # stock's, with bounds
    image_size: int | list[int] | tuple[int, int] = bounded(SwinConfig.image_size, 1)
    patch_size: int | list[int] | tuple[int, int] = bounded(SwinConfig.patch_size, 1)
    num_channels: int = bounded(SwinConfig.num_channels, 1)
    embed_dim: int = bounded(SwinConfig.embed_dim, 1)
    depths: list[int] | tuple[int, ...] = bounded(SwinConfig.depths, 1, MOST_LAYERS)
    num_heads: list[int] | tuple[int, ...] = bounded(SwinConfig.num_heads, 1)
    window_size: int = bounded(SwinConfig.window_size, 1)
    mlp_ratio: float | int = bounded(SwinConfig.mlp_ratio, 0)
    hidden_dropout_prob: float | int = bounded(SwinConfig.hidden_dropout_prob, 0, 1)
    attention_probs_dropout_prob: float | int = bounded(SwinConfig.attention_probs_dropout_prob, 0, 1)
    drop_path_rate: float | int = bounded(SwinConfig.drop_path_rate, 0, 1)
    hidden_act: str = activation(SwinConfig.hidden_act)
    initializer_range: float = bounded(SwinConfig.initializer_range, 0)
    layer_norm_eps: float = bounded(SwinConfig.layer_norm_eps, 0)
    encoder_stride: int = bounded(SwinConfig.encoder_stride, 1)

    hidden_sizes: list[int] | None = None
    block_num_heads: list[int] | None = None
    block_head_dims: list[int] | None = None
    block_intermediate_sizes: list[int] | None = None
    query_pre_attn_scalars: list[int] | None = None
    search: dict | None = None
    format_version: int = bounded(FORMAT_VERSION, 1, FORMAT_VERSION)

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_size = square_side("image_size", self.image_size)
        self.patch_size = square_side("patch_size", self.patch_size)
        if self.patch_size > self.image_size:
            raise ValueError(f"`patch_size` ({self.patch_size}) must be at most `image_size` ({self.image_size}).")
        if not 1 <= len(self.depths) == len(self.num_heads) <= MOST_STAGES:
            raise ValueError(
                f"`depths` and `num_heads` must have one entry per stage, 1 to {MOST_STAGES} of them, got "
                f"{list(self.depths)} and {list(self.num_heads)}."
            )
        # stock shrinks a window that is wider than a stage, and then has a bias for other positions
        smallest = -(-self.image_size // self.patch_size)
        for _ in self.depths[1:]:
            smallest = -(-smallest // 2)
        if self.window_size > smallest:
            raise ValueError(
                f"`window_size` must be at most {smallest}, the patches a side of the last stage at `image_size` "
                f"{self.image_size}, got {self.window_size}."
            )
        if self.hidden_sizes is None:
            self.hidden_sizes = [self.embed_dim * 2**stage for stage in range(len(self.depths))]
        _check_sizes("hidden_sizes", self.hidden_sizes, len(self.depths), "one per stage")
        self._fill_block_widths()
        for name in BLOCK_WIDTHS:
            _check_sizes(name, getattr(self, name), sum(self.depths), "one per block")
        if self.query_pre_attn_scalars is None:
            self.query_pre_attn_scalars = [widths[0][1] for widths in self.stage_widths]
        _check_sizes("query_pre_attn_scalars", self.query_pre_attn_scalars, len(self.depths), "one per stage")
        self.embed_dim = self.hidden_sizes[0]
        _check_num_labels(kwargs)
        super().__post_init__(**kwargs)
        # stock's is what doubling would give
        self.hidden_size = self.hidden_sizes[-1]

    def _fill_block_widths(self) -> None:
        """Of blocks that are as wide as their stage says."""
        sizes, heads = self.hidden_sizes or [], self.num_heads
        stages = [stage for stage, depth in enumerate(self.depths) for _ in range(depth)]
        if self.block_num_heads is None:
            self.block_num_heads = [heads[stage] for stage in stages]
        if self.block_head_dims is None:
            for size, number in zip(sizes, heads):
                if size < number:
                    raise ValueError(
                        f"`block_head_dims` must be given where the channels of a stage ({size}) are fewer than its "
                        f"`num_heads` ({number})."
                    )
            # as stock's: rounded down
            self.block_head_dims = [sizes[stage] // heads[stage] for stage in stages]
        if self.block_intermediate_sizes is None:
            self.block_intermediate_sizes = [int(self.mlp_ratio * sizes[stage]) for stage in stages]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As any config's.

        Raises:
            ValueError: If the data is of a newer `format_version`, or a field is not what it must be.
        """
        _check_format(config_dict)
        try:
            return super().from_dict(config_dict, **kwargs)
        except StrictDataclassError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        return _adopt_stock_swin(config_dict, pretrained_model_name_or_path), kwargs

    @property
    def stage_widths(self) -> list[list[tuple[int, int, int]]]:
        """Heads, channels a head and hidden units of the MLP of every block, by stage."""
        widths = list(zip(*(getattr(self, name) for name in BLOCK_WIDTHS)))
        starts = [sum(self.depths[:stage]) for stage in range(len(self.depths))]
        return [widths[start : start + depth] for start, depth in zip(starts, self.depths)]


def _check_format(config_dict: dict[str, Any]) -> None:
    version = config_dict.get("format_version", FORMAT_VERSION)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"`format_version` of the checkpoint is {version!r}, this code reads up to {FORMAT_VERSION}. Upgrade "
            "supersam_hf; or load it with the code in its own repository: by an Auto class with "
            "`trust_remote_code=True`, in a process that has not imported supersam_hf."
        )


def _check_num_labels(given: dict[str, Any]) -> None:
    """Raises `ValueError` where stock's config would make names of classes for what is no number of them."""
    number = given.get("num_labels", 0)
    if type(number) is not int or not 0 <= number <= MOST:
        raise ValueError(f"`num_labels` must be a whole number from 0 to {MOST:,}, got {number!r}.")


def square_side(name: str, size: int | list[int] | tuple[int, int]) -> int:
    """One number for a square given as one or two."""
    if isinstance(size, int):
        return size
    if len(size) != 2 or len(set(size)) != 1:
        raise ValueError(f"`{name}` must be square: one number, or two equal ones, got {list(size)}.")
    return size[0]


def _check_sizes(name: str, sizes: list[int] | None, count: int, which: str) -> None:
    if sizes is None or len(sizes) != count or min(sizes) < 1 or max(sizes) > MOST:
        raise ValueError(f"`{name}` must be {count} numbers of 1 or more, up to {MOST}, {which}; got {sizes}.")


__all__ = ["OfbSwinConfig"]
