"""What training and evaluating a supernet would take on this device: an estimate, before anything is run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..elastic.cost import LayerShape, SamShape, count_macs, layer_macs
from ..measure.latency import measure_latency
from ..measure.training_memory import TrainingMemory, training_memory
from ..models.supersam import ElasticSpace, Subnet, SuperSamConfig, SuperSamModel
from ..models.supersam.elastic_supersam import shared_depth
from ..models.supersam.extraction_supersam import resized_config
from ..recipe import Recipe
from ..training.losses import mask_loss
from ..training.pretrain import sam_config
from ..training.sandwich import freeze_prompt_encoder, predict


# Of a decoder that has more to do, so many prompts are timed and the rest is reckoned.
TIMED_PROMPTS = 4
# Where a single image takes longer, the batch is not timed as a whole.
LONG_MS = 1000.0
SAMPLED = 64


def model_config(recipe: Recipe) -> SuperSamConfig:
    """The config of the model that a run starts from; no weights are needed, a folder with `config.json` will do."""
    args = recipe.model
    if recipe.pretrain.enabled:
        return sam_config(recipe.pretrain)
    hub: dict[str, Any] = {} if args.revision is None else {"revision": args.revision}
    config = SuperSamConfig.from_pretrained(str(args.name), **hub)
    return resized_config(config, args.image_size, args.window_size)


def example_batch(config: Any, recipe: Recipe, batch_size: int, prompts: int, device: Any) -> dict[str, torch.Tensor]:
    """Inputs of a training step, of the recipe's kind of prompt; the values mean nothing.

    `pixel_values` (batch, 3, side, side), `input_boxes` (batch, prompts, 4) or `input_points` (batch, prompts, 1, 2),
    `low_res_masks` (batch, prompts, side / 4, side / 4).
    """
    side = config.vision_config.image_size
    low = 4 * (side // config.vision_config.patch_size)
    batch = {"pixel_values": torch.zeros(batch_size, 3, side, side, device=device)}
    if recipe.data.prompt == "box":
        batch["input_boxes"] = torch.full((batch_size, prompts, 4), side / 2, device=device)
    else:
        batch["input_points"] = torch.full((batch_size, prompts, 1, 2), side / 2, device=device)
        batch["input_labels"] = torch.ones(batch_size, prompts, 1, dtype=torch.long, device=device)
    batch["low_res_masks"] = torch.ones(batch_size, prompts, low, low, device=device)
    return batch


def sandwich_memory(config: SuperSamConfig, recipe: Recipe, device: torch.device) -> TrainingMemory:
    """Tensors of a training step of the largest subnet, at the recipe's batch size and precision."""

    def build() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
        with device:
            model = new_model(config, recipe).train()
        if recipe.train.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        batch = example_batch(config, recipe, recipe.data.batch_size, recipe.data.max_objects, device)
        if recipe.data.unlabelled:  # the image encoder alone, without a decoder pass
            return model.vision_encoder, _embedding_loss(model.vision_encoder, batch["pixel_values"], recipe, device)
        return model, loss_of(model, batch, recipe, device)

    return training_memory(build)


def new_model(config: SuperSamConfig, recipe: Recipe) -> SuperSamModel:
    """A model of random weights, set up as for training."""
    model = SuperSamModel._from_config(config, attn_implementation=recipe.model.attn_implementation)
    freeze_prompt_encoder(model)
    return model


def loss_of(
    model: SuperSamModel, batch: dict[str, torch.Tensor], recipe: Recipe, device: torch.device
) -> Callable[[], torch.Tensor]:
    """The loss of a training step as a function of nothing."""
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(recipe.train.mixed_precision)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, kind, enabled=kind is not None):
            outputs = predict(model, batch, None)
            logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
            return mask_loss(logits, scores, batch["low_res_masks"], recipe.train.loss)

    return loss


@dataclass(frozen=True)
class PieceTimes:
    """Seconds of the pieces of a model for one image: without gradients, and with forward and backward."""

    forward: float
    training: float


@dataclass(frozen=True)
class SamTimes:
    """Measured seconds of the pieces of a SAM, from which those of any of its subnets are reckoned by MACs.

    Args:
        shape ([`SamShape`]): Of the model.
        layers (`dict[int, PieceTimes]`): Of a whole layer that attends within squares of this side.
        rest (`PieceTimes`): Patches, neck, prompts, decoder and loss.
        optimizer (`float`): One update of all trained parameters.
        recompute (`bool`): Whether training runs the layers forward twice.
    """

    shape: SamShape
    layers: dict[int, PieceTimes]
    rest: PieceTimes
    optimizer: float
    recompute: bool

    def forward(self, subnet: Subnet | None = None) -> float:
        """Seconds of an image."""
        return self.rest.forward + sum(self._share(i, x) * self.layers[x.side].forward for i, x in self._kept(subnet))

    def training(self, subnet: Subnet | None = None) -> float:
        """Seconds of an image, forward and backward."""
        return self.rest.training + sum(self._layer_training(i, x) for i, x in self._kept(subnet))

    def _layer_training(self, index: int, layer: LayerShape) -> float:
        times = self.layers[layer.side]
        return self._share(index, layer) * (times.training + (times.forward if self.recompute else 0))

    def _kept(self, subnet: Subnet | None) -> list[tuple[int, LayerShape]]:
        indices = range(len(self.shape.layers)) if subnet is None else subnet.layers
        return list(zip(indices, self.shape.kept(subnet)))

    def _share(self, index: int, layer: LayerShape) -> float:
        return layer_macs(self.shape, layer) / layer_macs(self.shape, self.shape.layers[index])

    def sandwich_step(self, recipe: Recipe, space: ElasticSpace) -> float:
        """Seconds of an optimiser step of one process."""
        args, generator = recipe.train, torch.Generator().manual_seed(0)
        sampled = sum(self.training(space.sample(generator)) for _ in range(SAMPLED)) / SAMPLED
        image = self.training(space.largest()) + self.training(space.smallest()) + args.num_sampled * sampled
        updates = 2 + args.num_sampled
        if args.mode == "accumulate":
            # what no subnet changes runs once
            depth = shared_depth([space.largest(), space.smallest()], len(self.shape.layers))
            once = sum(self._layer_training(i, x) for i, x in self._kept(space.largest()) if i < depth)
            image, updates = image - (updates - 1) * once, 1
        return args.gradient_accumulation_steps * recipe.data.batch_size * image + updates * self.optimizer


def time_pieces(config: SuperSamConfig, recipe: Recipe, device: torch.device) -> SamTimes:
    """Runs one layer of each kind and what is around them, forward and backward, at the recipe's size and precision.

    Takes some seconds; about half a minute for SAM ViT-B at 1024 px on two cores.
    """
    shape = SamShape.from_config(config)
    small = _few_layers(config, shape)
    with device:
        model = new_model(small, recipe).train()
    prompts = min(recipe.data.max_objects, TIMED_PROMPTS)
    batch = example_batch(small, recipe, 1, prompts, device)
    whole = _timed(loss_of(model, batch, recipe, device), device)
    size = recipe.data.batch_size if whole.training * 1e3 < LONG_MS else 1
    if size > 1:  # small models are slow an image where it is alone
        batch = example_batch(small, recipe, size, prompts, device)
        whole = _per_image(_timed(loss_of(model, batch, recipe, device), device), size)
    layers: dict[int, PieceTimes] = {}
    for layer, kind in zip(model.vision_encoder.layers, SamShape.from_config(small).layers):
        tokens = torch.randn(size, shape.grid, shape.grid, shape.hidden_size, device=device, requires_grad=True)
        layers[kind.side] = _per_image(_timed(_layer_loss(layer, tokens, recipe, device), device), size)
    known = [sum(getattr(times, name) for times in layers.values()) for name in ("forward", "training")]
    more = _decoder_ratio(shape, recipe.data.max_objects, prompts)
    rest = PieceTimes(max(0.0, whole.forward - known[0]) * more, max(0.0, whole.training - known[1]) * more)
    return SamTimes(
        shape, layers, rest, _optimizer_seconds(model, config, device), recipe.train.gradient_checkpointing
    )


def _few_layers(config: SuperSamConfig, shape: SamShape) -> SuperSamConfig:
    """A config with one layer of each kind: within windows, and global."""
    indices = {layer.side: i for i, layer in reversed(list(enumerate(shape.layers)))}
    values = config.to_dict()
    vision = values["vision_config"]
    vision["global_attn_indexes"] = [n for n, i in enumerate(indices.values()) if i in vision["global_attn_indexes"]]
    vision["num_hidden_layers"] = len(indices)
    # SAM's own, 1e-10, makes gradients denormal numbers, which CPUs multiply several times as slowly
    vision["initializer_range"] = 0.02
    for key in ("elastic_space", "subnet"):
        values.pop(key, None)
    return SuperSamConfig.from_dict(values)


def _embedding_loss(
    encoder: Any, pixel_values: torch.Tensor, recipe: Recipe, device: torch.device
) -> Callable[[], torch.Tensor]:
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(recipe.train.mixed_precision)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, kind, enabled=kind is not None):
            return encoder(pixel_values).last_hidden_state.float().square().mean()

    return loss


def _layer_loss(layer: Any, tokens: torch.Tensor, recipe: Recipe, device: torch.device) -> Callable[[], torch.Tensor]:
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(recipe.train.mixed_precision)

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, kind, enabled=kind is not None):
            return layer(tokens).float().sum()

    return loss


def _timed(loss: Callable[[], torch.Tensor], device: torch.device) -> PieceTimes:
    def training() -> None:
        loss().backward()

    # A call of seconds is timed once: nothing would warm up. Of short ones the middle of several counts.
    both = measure_latency(training, warmup=0, repeats=1, device=device).median_ms
    repeats = max(1, min(10, int(LONG_MS / both)))
    if repeats > 1:
        both = measure_latency(training, warmup=0, repeats=repeats, device=device).median_ms
    forward = measure_latency(torch.inference_mode()(loss), warmup=0, repeats=repeats, device=device).median_ms
    return PieceTimes(forward / 1e3, both / 1e3)


def _per_image(times: PieceTimes, images: int) -> PieceTimes:
    return PieceTimes(times.forward / images, times.training / images)


def _decoder_ratio(shape: SamShape, prompts: int, timed: int) -> float:
    """How much more work is around the layers with all prompts than with those that were timed."""
    layers = sum(layer_macs(shape, layer) for layer in shape.layers)
    return (count_macs(shape, num_prompts=prompts) - layers) / (count_macs(shape, num_prompts=timed) - layers)


def _optimizer_seconds(model: SuperSamModel, config: SuperSamConfig, device: torch.device) -> float:
    """Of all trained parameters, by those of the few layers."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    seconds = measure_latency(optimizer.step, warmup=1, repeats=3, device=device).median_ms / 1e3
    with torch.device("meta"):
        whole = new_model_size(config)
    return seconds * whole / sum(p.numel() for p in trained)


def new_model_size(config: SuperSamConfig) -> int:
    """Parameters that are trained."""
    model = SuperSamModel(config)
    freeze_prompt_encoder(model)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


__all__ = ["SamTimes", "model_config", "sandwich_memory", "time_pieces"]
