"""What `train_step.py` times: the steps of a supernet and of stock SAMs on one batch, and the parts of a step."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import NORMAL_WEIGHTS
from transformers import SamModel

from supersam_hf import Subnet, SuperSamConfig, SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, shapes
from supersam_hf.models.supersam.extraction_supersam import stock_sam_config, subnet_config
from supersam_hf.training.engine import Engine
from supersam_hf.training.losses import LossArguments, mask_loss
from supersam_hf.training.sandwich import (
    SandwichArguments,
    forward_backward,
    freeze_prompt_encoder,
    predict,
    sandwich_step,
)
from supersam_hf.training.shared_layers import share


LOSS = LossArguments()
TINY = {"image_size": 64, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3, "mlp_dim": 192}


def new_model(name: str, image_size: int | None) -> SuperSamModel:
    """The checkpoint, or a model of random weights."""
    if name not in ("sam-vit-base", "tiny"):
        return SuperSamModel.from_pretrained(name, image_size=image_size)
    vision = {**(TINY if name == "tiny" else {}), **NORMAL_WEIGHTS, "scale": 1.0}
    if image_size is not None:
        vision["image_size"] = image_size
    prompt = {"image_size": vision.get("image_size", 1024)}
    return SuperSamModel(SuperSamConfig(vision_config=vision, prompt_encoder_config=prompt))


def new_engine(model: SuperSamModel, args: argparse.Namespace, folder: str) -> Engine:
    """The training engine on a batch of generated scenes."""
    freeze_prompt_encoder(model)
    processor = SuperSamProcessor.for_config(model.config)
    scenes = shapes(args.batch_size, image_size=max(32, model.config.vision_config.image_size))
    data = DataArguments(max_objects=args.prompts)
    dataset = PromptDataset(scenes, processor.image_processor, data, training=True)
    precision: Any = "bf16" if args.dtype == "bf16" else "no"
    rule = SandwichArguments(save_steps=0, mixed_precision=precision)
    engine = Engine(model, build_loader(dataset, args.batch_size, seed=0), rule, folder)
    if engine.accelerator.device.type != torch.device(args.device).type:
        raise ValueError(f"`--device` is {args.device}, but training takes {engine.accelerator.device}: hide that.")
    model.train()
    return engine


def supernet_runs(
    engine: Engine, batch: dict[str, torch.Tensor], subnets: dict[str, Subnet]
) -> dict[str, Callable[[], Any]]:
    """The sandwich step, the same without sharing, a step of the largest alone, and the parts of a step."""
    rule, model = SandwichArguments(), engine.unwrapped

    def unshared() -> None:
        for subnet in subnets.values():
            forward_backward(engine, batch, subnet, LOSS, len(subnets), None)
        engine.optimizer_step()

    def shared_layers() -> None:
        shared = share(engine, batch, subnets)
        shared.inputs(last=True)["hidden_states"].sum().backward()
        engine.optimizer.zero_grad()

    grid = model.config.vision_config.image_size // model.config.vision_config.patch_size
    channels = model.config.vision_config.output_channels
    embedding = torch.randn(len(batch["pixel_values"]), channels, grid, grid, device=engine.accelerator.device)
    embedding.requires_grad_()

    def decoder() -> None:
        outputs = predict(engine.model, batch, None, {"image_embeddings": embedding})
        logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
        mask_loss(logits, scores, batch["low_res_masks"], LOSS).backward()
        engine.optimizer.zero_grad()

    gradients = {p: torch.zeros_like(p) for p in model.parameters() if p.requires_grad}

    def adamw() -> None:
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        engine.optimizer_step()

    return {
        "sandwich step": partial(sandwich_step, engine, [batch], subnets, rule),
        "sandwich step, nothing shared": unshared,
        "one step of the largest": partial(sandwich_step, engine, [batch], {"largest": subnets["largest"]}, rule),
        "shared layers": shared_layers,
        "prompts, decoder and loss": decoder,
        "AdamW": adamw,
    }


def stock_runs(
    engine: Engine, batch: dict[str, torch.Tensor], subnets: dict[str, Subnet]
) -> dict[str, Callable[[], Any]]:
    """A training step of stock SAM at each subnet's depth and mean width, one after the other; and the largest's."""
    config = engine.unwrapped.config
    steps = {}
    for name, subnet in subnets.items():
        depth, mean = len(subnet.layers), round(sum(subnet.mlp_dim) / len(subnet.layers))
        uniform = Subnet(subnet.layers, (mean,) * depth, subnet.head_dim)
        model = SamModel(stock_sam_config(subnet_config(config, uniform))).to(engine.accelerator.device).train()
        freeze_prompt_encoder(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
        steps[name] = partial(stock_step, engine, model, optimizer, batch)

    def three_steps() -> None:
        for step in steps.values():
            step()

    return {"three steps of stock SAM": three_steps, "one step of stock SAM, largest": steps["largest"]}


def stock_step(
    engine: Engine, model: SamModel, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]
) -> None:
    images, boxes = batch["pixel_values"], batch["input_boxes"]
    with engine.accelerator.autocast():
        outputs = model(pixel_values=images, input_boxes=boxes, multimask_output=False)
    logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
    mask_loss(logits, scores, batch["low_res_masks"], LOSS).backward()
    optimizer.step()
    optimizer.zero_grad()
