"""A sandwich step computes once what its subnets share: gradients of plain PyTorch, in the memory of one subnet."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from test_training import assert_close_gradients, space_of

from supersam_hf import ElasticSpace, Subnet, SuperSamModel
from supersam_hf.measure.training_memory import LiveBytes
from supersam_hf.training.engine import Engine
from supersam_hf.training.losses import LossArguments, mask_loss
from supersam_hf.training.sandwich import SandwichArguments, freeze_prompt_encoder, predict, sandwich_step


Batches = list[dict[str, torch.Tensor]]
Gradients = dict[str, torch.Tensor]
LOSS = LossArguments(bce_weight=0.5, iou_weight=0.3, distillation_weight=0.4)


def three(space: ElasticSpace, *removed: int) -> dict[str, Subnet]:
    """Largest, smallest and another, of which all leave out the `removed` layers."""
    smallest = space.subnet((*space.prunable_layers, *removed), min(space.mlp_windows))
    return {"largest": space.subnet(removed), "smallest": smallest, "sampled": space.subnet((2, *removed), 96)}


def plain_gradients(
    model: SuperSamModel, batches: Batches, subnets: dict[str, Subnet], dtype: torch.dtype | None = None
) -> tuple[dict[str, float], Gradients]:
    """Mean losses and gradients of the sandwich rule, each subnet from the images to its own backward."""
    losses = dict.fromkeys((f"loss_{name}" for name in subnets), 0.0)
    for batch in batches:
        teacher = None
        for name, subnet in subnets.items():
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                outputs = model(
                    pixel_values=batch["pixel_values"],
                    input_boxes=batch["input_boxes"],
                    multimask_output=False,
                    subnet=subnet,
                )
            logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
            loss = mask_loss(logits, scores, batch["low_res_masks"], LOSS, teacher)
            (loss / (len(subnets) * len(batches))).backward()
            teacher = logits.detach() if name == "largest" else teacher
            losses[f"loss_{name}"] += loss.item() / len(batches)
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def made_engine(
    model: SuperSamModel, loader: Any, folder: Path, **options: Any
) -> tuple[Engine, SandwichArguments, Gradients]:
    """An engine that keeps the gradients of its step and leaves the weights."""
    args = SandwichArguments(max_steps=1, loss=LOSS, save_steps=0, **options)
    engine, kept = Engine(model, loader, args, folder), {}

    def keep() -> None:
        kept.update({name: p.grad for name, p in model.named_parameters() if p.grad is not None})

    engine.optimizer_step = keep  # type: ignore[method-assign]
    return engine, args, kept


def doubled(batches: Batches) -> Batches:
    return [{k: v.double() if v.is_floating_point() else v for k, v in batch.items()} for batch in batches]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("protected", "removed", "depth"), [((), (), 0), ((0,), (), 1), ((0,), (1,), 2)])
def test_shared_layers_give_the_gradients_of_unshared_ones(
    stock_folder: Path,
    shapes_loader: Callable,
    tmp_path: Path,
    protected: tuple[int, ...],
    removed: tuple[int, ...],
    depth: int,
    checkpointing: bool,
) -> None:
    """Two micro-batches, all loss terms, in float64; the shared layers and the patch embedding run once for each."""
    model, twin = (SuperSamModel.from_pretrained(stock_folder).double().train() for _ in range(2))
    for each in (model, twin):
        freeze_prompt_encoder(each)
    space = ElasticSpace.for_config(model.config, protected_layers=protected, prunable_layers=(1, 2, 3))
    subnets = three(space, *removed)
    options = {"gradient_accumulation_steps": 2, "gradient_checkpointing": checkpointing}
    engine, args, kept = made_engine(model, shapes_loader(8, 4), tmp_path, **options)
    runs: Counter[Any] = Counter()
    for i, layer in enumerate(model.vision_encoder.layers):
        layer.register_forward_hook(lambda *_, i=i: runs.update([i]))
    model.vision_encoder.patch_embed.register_forward_hook(lambda *_: runs.update(["patches"]))
    batches = doubled(next(engine.batches()))
    logs = sandwich_step(engine, batches, subnets, args)
    losses, expected = plain_gradients(twin, batches, subnets)
    assert logs == pytest.approx(losses, rel=1e-6)  # the loss itself is in float32
    worst = assert_close_gradients(expected, kept, tolerance=1e-10, negligible=1e-15)
    print(f"largest difference relative to a tensor's largest gradient: {worst:.1e}")
    keeping = Counter(layer for subnet in subnets.values() for layer in subnet.layers)
    shared = {i for i in range(depth) if i not in removed}
    assert runs == {"patches": 2, **{i: 2 if i in shared else 2 * n for i, n in keeping.items()}}


@pytest.fixture
def another_precision() -> Iterator[None]:
    """Accelerate has one precision a process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.usefixtures("another_precision")
@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-6), ("bf16", 0.02)])
def test_other_precisions_differ_by_rounding(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path, precision: str, tolerance: float
) -> None:
    model, twin = (SuperSamModel.from_pretrained(stock_folder).train() for _ in range(2))
    subnets = three(space_of(model))
    engine, args, kept = made_engine(model, shapes_loader(), tmp_path, mixed_precision=precision)
    batches = next(engine.batches())
    logs = sandwich_step(engine, batches, subnets, args)
    losses, expected = plain_gradients(twin, batches, subnets, torch.bfloat16 if precision == "bf16" else None)
    assert logs == pytest.approx(losses, rel=1e-2 if precision == "bf16" else 1e-6)
    worst = assert_close_gradients(expected, kept, tolerance=tolerance, negligible=1e-6)
    print(f"{precision}: largest difference relative to a tensor's largest gradient: {worst:.1e}")


def test_nothing_goes_back_through_frozen_shared_layers(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path
) -> None:
    model, twin = (SuperSamModel.from_pretrained(stock_folder).double().train() for _ in range(2))
    for each in (model, twin):
        each.requires_grad_(False)
        each.vision_encoder.layers[1:].requires_grad_(True)
    subnets = three(space_of(model))
    engine, args, kept = made_engine(model, shapes_loader(), tmp_path)
    batches = doubled(next(engine.batches()))
    sandwich_step(engine, batches, subnets, args)
    assert_close_gradients(plain_gradients(twin, batches, subnets)[1], kept, tolerance=1e-10, negligible=1e-15)


def test_a_step_holds_the_graph_of_one_subnet(stock_folder: Path, shapes_loader: Callable, tmp_path: Path) -> None:
    """Bytes of all tensors that are there at once: at most a tenth above one plain step of the largest."""
    model = SuperSamModel.from_pretrained(stock_folder)
    subnets = three(space_of(model))
    engine, args, _ = made_engine(model, shapes_loader(16, 8), tmp_path, gradient_accumulation_steps=2)
    batches = next(engine.batches())

    def largest_alone() -> None:
        for batch in batches:
            outputs = predict(model, batch, subnets["largest"])
            logits, scores = outputs.pred_masks[:, :, 0], outputs.iou_scores[:, :, 0]
            mask_loss(logits, scores, batch["low_res_masks"], LOSS).backward()

    peaks = []
    for run in (largest_alone, lambda: sandwich_step(engine, batches, subnets, args)):
        with LiveBytes() as live:
            run()  # weights count as made when they are first seen
            model.zero_grad()
            before = live.peak = live.live
            run()
        peaks.append(live.peak - before)
    print(f"sandwich step {peaks[1] / peaks[0]:.3f} of one largest step ({peaks[0] / 2**20:.1f} MiB)")
    assert peaks[1] <= 1.1 * peaks[0]
