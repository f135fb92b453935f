"""Meta's checkpoints: a SAM with the original's module names and arithmetic, written here, is the truth."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from supersam_hf.models.supersam.convert_meta import config_from_meta, convert_meta_state_dict, load_meta_checkpoint
from supersam_hf.models.supersam.modeling_supersam import SuperSamModel


class MetaLayerNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class MetaMLPBlock(nn.Module):
    def __init__(self, size: int, hidden: int, act: Any) -> None:
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(size, hidden), nn.Linear(hidden, size), act

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class MetaHead(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class MetaVisionAttention(nn.Module):
    def __init__(self, size: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, size // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, size // heads))

    def forward(self, x: Tensor) -> Tensor:
        batch, side, _, size = x.shape
        # each (batch, heads, y, x, channel)
        q, k, v = self.qkv(x).view(batch, side, side, 3, self.heads, -1).permute(3, 0, 4, 1, 2, 5)
        distance = torch.arange(side)[:, None] - torch.arange(side)[None] + side - 1
        logits = torch.einsum("bnyxc,bnijc->bnyxij", q, k) * q.shape[-1] ** -0.5
        logits = logits + torch.einsum("bnyxc,yic->bnyxi", q, self.rel_pos_h[distance])[..., None]
        logits = logits + torch.einsum("bnyxc,xjc->bnyxj", q, self.rel_pos_w[distance])[..., None, :]
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return self.proj(torch.einsum("bnyxij,bnijc->byxnc", weights, v).flatten(-2))


class MetaBlock(nn.Module):
    def __init__(self, size: int, heads: int, mlp_dim: int, window: int, grid: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size, eps=1e-6), nn.LayerNorm(size, eps=1e-6)
        self.attn = MetaVisionAttention(size, heads, window or grid)
        self.mlp = MetaMLPBlock(size, mlp_dim, nn.GELU())
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        attended = self.norm1(x)
        if self.window:
            grid, w = x.shape[1], self.window
            parts = [attended[:, i : i + w, j : j + w] for i in range(0, grid, w) for j in range(0, grid, w)]
            parts = [self.attn(part) for part in parts]
            rows = [torch.cat(parts[i : i + grid // w], 2) for i in range(0, len(parts), grid // w)]
            x = x + torch.cat(rows, 1)
        else:
            x = x + self.attn(attended)
        return x + self.mlp(self.norm2(x))


class MetaPatchEmbed(nn.Module):
    def __init__(self, size: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, size, patch, stride=patch)


class MetaImageEncoder(nn.Module):
    def __init__(self, size: int, depth: int, heads: int, global_layers: list[int], **kw: int) -> None:
        super().__init__()
        grid = kw["grid"]
        self.patch_embed = MetaPatchEmbed(size, kw["patch"])
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, size))
        windows = [0 if i in global_layers else kw["window"] for i in range(depth)]
        self.blocks = nn.ModuleList(MetaBlock(size, heads, 4 * size, window, grid) for window in windows)
        conv1, conv2 = nn.Conv2d(size, kw["out"], 1, bias=False), nn.Conv2d(kw["out"], kw["out"], 3, 1, 1, bias=False)
        self.neck = nn.Sequential(conv1, MetaLayerNorm2d(kw["out"]), conv2, MetaLayerNorm2d(kw["out"]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x).permute(0, 2, 3, 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class MetaRandomEmbedding(nn.Module):
    def __init__(self, feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, feats))

    def forward(self, xy: Tensor) -> Tensor:
        angle = 2 * math.pi * ((2 * xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angle.sin(), angle.cos()], -1)


class MetaPromptEncoder(nn.Module):
    def __init__(self, size: int, mask_channels: int) -> None:
        super().__init__()
        self.pe_layer = MetaRandomEmbedding(size // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, size) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, size), nn.Embedding(1, size)
        thin = mask_channels // 4
        self.mask_downscaling = nn.Sequential(
            *(nn.Conv2d(1, thin, 2, 2), MetaLayerNorm2d(thin), nn.GELU()),
            *(nn.Conv2d(thin, mask_channels, 2, 2), MetaLayerNorm2d(mask_channels), nn.GELU()),
            nn.Conv2d(mask_channels, size, 1),
        )


class MetaAttention(nn.Module):
    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(size, inner), nn.Linear(size, inner), nn.Linear(size, inner)
        self.out_proj = nn.Linear(inner, size)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (8, -1)).transpose(1, 2) for p, x in zip(self.projections(), (q, k, v)))
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(-2))

    def projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.q_proj, self.k_proj, self.v_proj


class MetaTwoWayBlock(nn.Module):
    def __init__(self, size: int, mlp_dim: int) -> None:
        super().__init__()
        self.self_attn = MetaAttention(size, size)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(size) for _ in range(4))
        self.cross_attn_token_to_image = MetaAttention(size, size // 2)
        self.cross_attn_image_to_token = MetaAttention(size, size // 2)
        self.mlp = MetaMLPBlock(size, mlp_dim, nn.ReLU())

    def forward(self, q: Tensor, k: Tensor, q_pe: Tensor, k_pe: Tensor, first: bool) -> tuple[Tensor, Tensor]:
        q = self.norm1(self.self_attn(q, q, q) if first else q + self.self_attn(q + q_pe, q + q_pe, q))
        q = self.norm2(q + self.cross_attn_token_to_image(q + q_pe, k + k_pe, k))
        q = self.norm3(q + self.mlp(q))
        k = self.norm4(k + self.cross_attn_image_to_token(k + k_pe, q + q_pe, q))
        return q, k


class MetaTransformer(nn.Module):
    def __init__(self, size: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MetaTwoWayBlock(size, mlp_dim) for _ in range(2))
        self.final_attn_token_to_image = MetaAttention(size, size // 2)
        self.norm_final_attn = nn.LayerNorm(size)

    def forward(self, k: Tensor, k_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        q = tokens
        for i, layer in enumerate(self.layers):
            q, k = layer(q, k, tokens, k_pe, first=i == 0)
        return self.norm_final_attn(q + self.final_attn_token_to_image(q + tokens, k + k_pe, k)), k


class MetaMaskDecoder(nn.Module):
    def __init__(self, size: int, mlp_dim: int, iou_depth: int, iou_hidden: int) -> None:
        super().__init__()
        self.transformer = MetaTransformer(size, mlp_dim)
        self.iou_token, self.mask_tokens = nn.Embedding(1, size), nn.Embedding(4, size)
        self.output_upscaling = nn.Sequential(
            *(nn.ConvTranspose2d(size, size // 4, 2, 2), MetaLayerNorm2d(size // 4), nn.GELU()),
            *(nn.ConvTranspose2d(size // 4, size // 8, 2, 2), nn.GELU()),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MetaHead([size, size, size, size // 8]) for _ in range(4))
        self.iou_prediction_head = MetaHead([size, *[iou_hidden] * (iou_depth - 1), 4])

    def forward(self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None].expand(len(sparse), -1, -1)
        source = (image + dense).expand(len(sparse), -1, -1, -1)
        keys, keys_pe = (x.flatten(2).transpose(1, 2) for x in (source, image_pe.expand_as(source)))
        queries, keys = self.transformer(keys, keys_pe, torch.cat([tokens, sparse], 1))
        upscaled = self.output_upscaling(keys.transpose(1, 2).view_as(source))
        weights = torch.stack([head(queries[:, 1 + i]) for i, head in enumerate(self.output_hypernetworks_mlps)], 1)
        return torch.einsum("bmc,bchw->bmhw", weights, upscaled), self.iou_prediction_head(queries[:, 0])


class MetaSam(nn.Module):
    def __init__(self, size: int, depth: int, heads: int, global_layers: list[int], **kwargs: int) -> None:
        super().__init__()
        given = {"grid": 64, "patch": 16, "window": 14, "out": 256, "mask_channels": 16}
        given |= {"decoder_mlp": 2048, "iou_depth": 3, "iou_hidden": 256} | kwargs
        encoder = {key: given[key] for key in ("grid", "patch", "window", "out")}
        self.image_encoder = MetaImageEncoder(size, depth, heads, global_layers, **encoder)
        self.prompt_encoder = MetaPromptEncoder(given["out"], given["mask_channels"])
        self.mask_decoder = MetaMaskDecoder(
            given["out"], given["decoder_mlp"], given["iou_depth"], given["iou_hidden"]
        )

    def forward(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """An image (1, 3, size, size) and boxes (k, 4) to logits (k, 4, side, side) and IoU (k, 4)."""
        embedding, prompts = self.image_encoder(image), self.prompt_encoder
        corners = (boxes + 0.5).view(-1, 2, 2) / image.shape[-1]
        points = torch.cat([prompts.point_embeddings[2].weight, prompts.point_embeddings[3].weight])
        line = (torch.arange(embedding.shape[-1]) + 0.5) / embedding.shape[-1]
        y, x = torch.meshgrid(line, line, indexing="ij")
        image_pe = prompts.pe_layer(torch.stack([x, y], -1)).permute(2, 0, 1)[None]
        dense = prompts.no_mask_embed.weight.view(1, -1, 1, 1)
        return self.mask_decoder(embedding, image_pe, prompts.pe_layer(corners) + points, dense)


TINY = {"grid": 4, "patch": 4, "window": 2, "out": 16, "mask_channels": 8}
TINY |= {"decoder_mlp": 24, "iou_depth": 4, "iou_hidden": 12}


@pytest.fixture
def tiny() -> MetaSam:
    torch.manual_seed(0)
    model = MetaSam(12, 3, 2, [1], **TINY).eval().requires_grad_(False)
    for parameter in model.parameters():  # so that no two tensors may be taken for each other
        parameter.normal_(0.1, 0.3)
    return model


def load(state_dict: dict[str, Tensor], model_class: type = SamModel, config_class: type = SamConfig) -> Any:
    model = model_class(config_class(**config_from_meta(state_dict))).eval()
    model.load_state_dict(convert_meta_state_dict(state_dict), strict=True)
    return model


def test_a_converted_sam_computes_what_the_original_computes(tiny: MetaSam) -> None:
    image, boxes = torch.randn(1, 3, 16, 16), torch.tensor([[1.0, 2.0, 9.0, 14.0], [0.0, 0.0, 15.0, 7.0]])
    masks, iou = tiny(image, boxes)
    converted = load(tiny.state_dict())
    with torch.no_grad():
        single = converted(pixel_values=image, input_boxes=boxes[None], multimask_output=False)
        three = converted(pixel_values=image, input_boxes=boxes[None], multimask_output=True)
    # transformers' decoder norms have an epsilon of 1e-6 where Meta's have 1e-5
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(torch.cat([single.pred_masks, three.pred_masks], 2)[0], masks, **close)
    torch.testing.assert_close(torch.cat([single.iou_scores, three.iou_scores], 2)[0], iou, **close)
    assert masks.std() > 0.1


@pytest.mark.parametrize(
    ("size", "depth", "heads", "global_layers"),
    [
        (768, 12, 12, [2, 5, 8, 11]),
        (1024, 24, 16, [5, 11, 17, 23]),
        (1280, 32, 16, [7, 15, 23, 31]),
    ],
    ids=["base", "large", "huge"],
)
def test_the_released_shapes_are_recognised(size: int, depth: int, heads: int, global_layers: list[int]) -> None:
    with torch.device("meta"):
        state_dict = MetaSam(size, depth, heads, global_layers).state_dict()
        config = SamConfig(**config_from_meta(state_dict))
        expected = SamModel(config).state_dict()
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (size, depth, heads)
    assert (vision.image_size, vision.patch_size, vision.window_size, vision.mlp_dim) == (1024, 16, 14, 4 * size)
    assert list(vision.global_attn_indexes) == global_layers
    assert vision.scale == 1.0
    assert config.prompt_encoder_config.to_dict() == SamConfig().prompt_encoder_config.to_dict()
    assert config.mask_decoder_config.to_dict() == SamConfig().mask_decoder_config.to_dict()
    converted = {name: value.shape for name, value in convert_meta_state_dict(state_dict).items()}
    assert converted == {name: value.shape for name, value in expected.items()}


def test_a_pth_file_becomes_a_supernet(tiny: MetaSam, tmp_path: Path) -> None:
    torch.save(tiny.state_dict(), tmp_path / "sam.pth")
    config, state_dict = load_meta_checkpoint(tmp_path / "sam.pth")
    supernet = SuperSamModel(config).eval()
    supernet.load_state_dict(state_dict, strict=True)
    image, boxes = torch.randn(1, 3, 16, 16), torch.tensor([[[1.0, 2.0, 9.0, 14.0]]])
    with torch.no_grad():
        converted, stock = (m(pixel_values=image, input_boxes=boxes) for m in (supernet, load(tiny.state_dict())))
    torch.testing.assert_close(converted.pred_masks, stock.pred_masks)


def test_the_shared_positional_embedding_is_one_tensor(tiny: MetaSam) -> None:
    converted = convert_meta_state_dict(tiny.state_dict())
    names = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
    assert converted[names[0]] is converted[names[1]]


def test_pixel_statistics_of_the_image_processor_are_left_out(tiny: MetaSam) -> None:
    extra = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert (
        convert_meta_state_dict(tiny.state_dict() | extra).keys() == convert_meta_state_dict(tiny.state_dict()).keys()
    )


def test_an_unknown_tensor_is_named(tiny: MetaSam) -> None:
    with pytest.raises(ValueError, match="`image_encoder.blocks.0.attn.gamma` is not a tensor of an original SAM"):
        convert_meta_state_dict(tiny.state_dict() | {"image_encoder.blocks.0.attn.gamma": torch.zeros(1)})
    with pytest.raises(ValueError, match="`module.image_encoder.pos_embed` is not"):
        convert_meta_state_dict({f"module.{key}": value for key, value in tiny.state_dict().items()})


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("image_encoder.trunk.patch_embed.proj.weight", "SAM 2"),
        ("mask_decoder.hf_token.weight", "HQ-SAM"),
        ("image_encoder.patch_embed.seq.0.c.weight", "MobileSAM"),
        ("detector.backbone.vision_backbone.trunk.pos_embed", "SAM 3"),
    ],
)
@pytest.mark.parametrize("convert", [convert_meta_state_dict, config_from_meta])
def test_other_kinds_of_sam_are_refused_by_name(tiny: MetaSam, key: str, name: str, convert: Any) -> None:
    with pytest.raises(ValueError, match=f"it is {name}, which SuperSAM does not support"):
        convert(tiny.state_dict() | {key: torch.zeros(1)})
    with pytest.raises(ValueError, match=f"it is {name}, which"):
        convert({"model": {key: torch.zeros(1)}})


def test_a_wrapped_or_partial_checkpoint_is_refused(tiny: MetaSam) -> None:
    with pytest.raises(ValueError, match="`state_dict` of the checkpoint is of type OrderedDict, not a tensor"):
        convert_meta_state_dict({"state_dict": tiny.state_dict()})
    encoder = {key: value for key, value in tiny.state_dict().items() if key.startswith("image_encoder.")}
    with pytest.raises(ValueError, match="it is not a whole original SAM"):
        config_from_meta(encoder)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(ValueError, match="must be a `.pth` file written by `torch.save`"):
        load_meta_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        load_meta_checkpoint(tmp_path / "absent.pth")
