"""Sandwich training: losses in closed form, steps against plain PyTorch, killed and resumed, two processes."""

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fresh
import pytest
import torch
from conftest import tiny_config
from torch.utils.data import DataLoader
from train_script import gradients
from transformers import AutoModel, ViTConfig, ViTModel

from supersam_hf import ElasticSpace, SuperSamModel
from supersam_hf.training.arguments import EngineArguments, lr_factor
from supersam_hf.training.checkpoints import checkpoints
from supersam_hf.training.engine import Engine
from supersam_hf.training.finetune import FinetuneArguments, finetune
from supersam_hf.training.losses import LossArguments, dice_loss, mask_loss
from supersam_hf.training.pretrain import PretrainArguments, new_sam
from supersam_hf.training.sandwich import (
    SandwichArguments,
    freeze_prompt_encoder,
    predict,
    sandwich_step,
    subnets_of_step,
    train_sandwich,
)


HERE = Path(__file__).parent


def space_of(model: SuperSamModel) -> ElasticSpace:
    return ElasticSpace.for_config(model.config, prunable_layers=(1, 2, 3))


def script(*arguments: object, processes: int = 1, check: bool = True) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return fresh.launch(processes, HERE / "train_script.py", *arguments, check=check, env=environment, timeout=600)


def test_dice_is_eq_2() -> None:
    truth = torch.zeros(1, 4, 4)
    truth[0, :2] = 1  # 8 px
    predicted = torch.zeros(1, 4, 4)
    predicted[0, 1:3] = 1  # 8 px, 4 of them shared
    assert dice_loss(predicted, truth).item() == pytest.approx(1 - 2 * 4 / (8 + 8))
    assert dice_loss(truth, truth).item() == pytest.approx(0, abs=1e-6)
    half = torch.full((1, 4, 4), 0.5)
    assert dice_loss(half, truth).item() == pytest.approx(1 - 2 * 4 / (8 + 8))
    assert dice_loss(half, truth, squared=True).item() == pytest.approx(1 - 2 * 4 / (16 * 0.25 + 8))


def test_the_iou_term_compares_with_the_actual_iou() -> None:
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    logits = torch.where(torch.arange(4) < 3, 20.0, -20.0).expand(1, 1, 4, 4)  # IoU 2/3
    plain = mask_loss(logits, torch.tensor([[0.9]]), target, LossArguments())
    honest = mask_loss(logits, torch.tensor([[2 / 3]]), target, LossArguments(iou_weight=10))
    proud = mask_loss(logits, torch.tensor([[0.9]]), target, LossArguments(iou_weight=10))
    assert honest.item() == pytest.approx(plain.item(), abs=1e-5)
    assert proud.item() - plain.item() == pytest.approx(10 * (0.9 - 2 / 3) ** 2, abs=1e-5)


@pytest.mark.parametrize("schedule", ["exponential", "cosine", "linear"])
def test_the_learning_rate_falls_to_its_floor(schedule: str) -> None:
    args = EngineArguments(max_steps=100, lr_schedule=schedule)
    rates = [lr_factor(step, args) for step in range(100)]
    assert rates[0] == 1
    assert rates[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in zip(rates, rates[1:]))
    assert lr_factor(150, args) == pytest.approx(0.01)
    assert EngineArguments(warmup_steps=10).warmup_steps == 10
    assert lr_factor(4, EngineArguments(max_steps=100, warmup_steps=9)) == pytest.approx(0.5)
    assert math.isclose(lr_factor(0, EngineArguments(max_steps=1)), 1)


def test_all_processes_draw_the_same_subnets_and_steps_draw_others(supernet: SuperSamModel) -> None:
    space, args = space_of(supernet), SandwichArguments(num_sampled=2)
    draws = [subnets_of_step(space, args, step) for step in range(20)]
    assert draws[3] == subnets_of_step(space, args, 3)
    assert list(draws[0]) == ["largest", "smallest", "sampled_0", "sampled_1"]
    assert len({d["sampled_0"] for d in draws}) > 15
    assert all(d["sampled_0"] != d["sampled_1"] for d in draws)


def expected_training(
    model: SuperSamModel, loader: DataLoader, args: SandwichArguments, steps: int
) -> dict[str, torch.Tensor]:
    """The sandwich rule in plain PyTorch, without Accelerate, engine or helper."""
    freeze_prompt_encoder(model)
    space = space_of(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    loader.batch_sampler.begin(0)
    for step, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * lr_factor(step, args)
        for i, subnet in enumerate(subnets_of_step(space, args, step).values()):
            outputs = model(
                pixel_values=batch["pixel_values"],
                input_boxes=batch["input_boxes"],
                multimask_output=False,
                subnet=subnet,
            )
            p, t = outputs.pred_masks[:, :, 0].sigmoid(), batch["low_res_masks"].float()
            loss = (1 - 2 * (p * t).sum((-2, -1)) / (p.sum((-2, -1)) + t.sum((-2, -1)))).mean()
            (loss / 3 if args.mode == "accumulate" else loss).backward()
            if args.mode == "sequential" or i == 2:
                optimizer.step()
                optimizer.zero_grad()
        if step + 1 == steps:
            break
    return dict(model.named_parameters())


@pytest.mark.parametrize("mode", ["accumulate", "sequential"])
def test_sandwich_training_is_the_rule_written_out(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path, mode: str
) -> None:
    args = SandwichArguments(max_steps=2, learning_rate=1e-3, mode=mode, save_steps=0)
    model, twin = (SuperSamModel.from_pretrained(stock_folder).train() for _ in range(2))
    expected = expected_training(twin, shapes_loader(), args, steps=2)
    trained = train_sandwich(model, space_of(model), shapes_loader(), args, tmp_path)
    for name, parameter in trained.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-5), name
        frozen = name.startswith(("prompt_encoder", "shared_image"))
        assert parameter.requires_grad != frozen


def test_gradient_accumulation_is_a_larger_batch(stock_folder: Path, shapes_loader: Callable, tmp_path: Path) -> None:
    results = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        model = SuperSamModel.from_pretrained(stock_folder)
        args = SandwichArguments(max_steps=1, save_steps=0, gradient_accumulation_steps=accumulate, learning_rate=1e-3)
        engine = Engine(model, shapes_loader(8, batch_size), args, tmp_path / str(batch_size))
        kept: dict[str, torch.Tensor] = {}
        engine.optimizer_step = lambda m=model, k=kept: k.update(  # type: ignore[method-assign]
            {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}
        )
        sandwich_step(engine, next(engine.batches()), subnets_of_step(space_of(model), args, 0), args)
        results.append(kept)
    assert_close_gradients(*results)


def assert_close_gradients(
    a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 1e-5, negligible: float = 1e-8
) -> float:
    assert a.keys() == b.keys()
    worst = 0.0
    for name, gradient in a.items():
        scale = gradient.abs().max().item()
        if scale > negligible:  # below that the gradient is rounding error (biases that softmax cancels)
            worst = max(worst, (gradient - b[name]).abs().max().item() / scale)
    assert worst <= tolerance, worst
    return worst


def test_distillation_pulls_towards_the_largest() -> None:
    target, teacher = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 20.0)
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    mask_loss(logits, torch.zeros(1, 1), target, LossArguments(distillation_weight=1.0), teacher).backward()
    assert (logits.grad < 0).all()  # up, to the teacher's mask, though the ground truth is empty


def test_finetuning_learns(stock_folder: Path, shapes_loader: Callable, tmp_path: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    extracted = model.extract(space_of(model).smallest())
    args = FinetuneArguments(max_steps=40, learning_rate=3e-3, save_steps=0, logging_steps=1)
    args.loss = LossArguments(bce_weight=1.0)
    finetune(extracted, shapes_loader(), args, tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_tensorboard_gets_the_three_losses(stock_folder: Path, shapes_loader: Callable, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = SuperSamModel.from_pretrained(stock_folder)
    args = SandwichArguments(max_steps=2, save_steps=0, logging_steps=1, report_to=["tensorboard"])
    train_sandwich(model, space_of(model), shapes_loader(), args, tmp_path)
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents.*")).parent)).Reload()
    logged = {"loss_largest", "loss_smallest", "loss_sampled", "learning_rate", "images_per_second", "memory_mb"}
    assert logged <= set(events.Tags()["scalars"])


def test_bad_settings_are_refused(stock_folder: Path, shapes_loader: Callable, tmp_path: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    with pytest.raises(ValueError, match="`report_to`.*swanlab"):
        Engine(model, shapes_loader(), EngineArguments(report_to=["swanlab"]), tmp_path)
    for field, value in (
        ("lr_schedule", "cosin"),
        ("max_steps", 0),
        ("min_lr_ratio", 2.0),
        ("warmup_steps", 1000),
        ("learning_rate", 0.0),
    ):
        with pytest.raises(ValueError, match=f"`{field}`"):
            EngineArguments(**{field: value})
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` of 9"):
        Engine(model, shapes_loader(), EngineArguments(gradient_accumulation_steps=9), tmp_path)
    with pytest.raises(ValueError, match="`mode`"):
        SandwichArguments(mode="acumulate")
    with pytest.raises(ValueError, match="`distillation_weight`"):
        LossArguments(distillation_weight=2)
    with pytest.raises(ValueError, match="`reorder_every`"):
        train_sandwich(model, space_of(model), shapes_loader(), SandwichArguments(reorder_every=2), tmp_path)


def test_a_launch_that_accelerate_does_not_see_is_refused(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    loader = shapes_loader()
    Engine(model, loader, EngineArguments(), tmp_path)  # from here on Accelerate holds one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="2 processes, but Accelerate sees 1"):
        Engine(model, loader, EngineArguments(), tmp_path)


def test_killed_in_mid_epoch_and_resumed_is_the_same_run(stock_folder: Path, tmp_path: Path) -> None:
    """12 steps of 5 an epoch, checkpoints at 5 and 10, killed by SIGKILL after step 8."""
    script("run", stock_folder, tmp_path / "whole")
    died = script("run", stock_folder, tmp_path / "killed", "kill=8", check=False)
    assert died.returncode == -9
    assert [c.name for c in checkpoints(tmp_path / "killed")] == ["checkpoint-00000005"]
    script("run", stock_folder, tmp_path / "killed")
    whole, resumed = (SuperSamModel.from_pretrained(tmp_path / d / "final") for d in ("whole", "killed"))
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters()):
        assert torch.equal(a, b), name
    logs = [[json.loads(line) for line in (tmp_path / d / "log.jsonl").open()] for d in ("whole", "killed")]
    losses = [[(line["step"], line["loss_sampled"]) for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_a_resumed_run_must_be_the_same_run(stock_folder: Path, shapes_loader: Callable, tmp_path: Path) -> None:
    def train(loader: DataLoader | None = None, **changed: object) -> None:
        model = SuperSamModel.from_pretrained(stock_folder)
        args = SandwichArguments(**{"max_steps": 2, "save_steps": 1, **changed})
        train_sandwich(model, space_of(model), loader or shapes_loader(), args, tmp_path)

    train()
    with pytest.raises(ValueError, match="`learning_rate`"):
        train(learning_rate=1.0)
    train(logging_steps=3)
    with pytest.raises(ValueError, match="`data.box_padding`"):
        train(loader=shapes_loader(box_padding=4))
    train(learning_rate=1.0, resume_from_checkpoint=None)
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]
    assert steps == [2]
    state = json.loads((checkpoints(tmp_path)[-1] / "trainer_state.json").read_text())
    assert state["run"]["learning_rate"] == 1.0


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_give_the_gradients_of_one(stock_folder: Path, tmp_path: Path, processes: int) -> None:
    """One sandwich step with depth elasticity, distillation and two micro-batches, under DDP and with sharded weights
    (which shares nothing between the subnets); the control, a rank with another subnet, must differ."""
    gradients(stock_folder, tmp_path)
    script("gradients", stock_folder, tmp_path, processes=processes)

    def load(name: str) -> dict[str, Any]:
        return torch.load(tmp_path / f"gradients-{name}.pt", weights_only=True)

    one = load("1-0")
    for rank in range(processes):
        for kind in ("", "-sharded"):
            found = load(f"{processes}-{rank}{kind}")
            worst = assert_close_gradients(one["gradients"], found["gradients"], negligible=1e-18)
            print(f"{kind} largest difference relative to a tensor's largest gradient: {worst:.2e}")
            assert found["norm"] == pytest.approx(one["norm"], rel=1e-5)
            assert found["drawn"] == one["drawn"]
            assert all(torch.equal(value, found["weights"][name]) for name, value in one["weights"].items())
        parts = torch.load(tmp_path / f"resumed-{processes}-{rank}.pt", weights_only=True)
        assert parts["written"]
        assert all(torch.equal(a, b) for a, b in zip(parts["written"], parts["read"], strict=True))
    names = {path.name for path in (tmp_path / "sharded" / "checkpoint-00000001").glob("model*.safetensors")}
    assert names == {f"model-{rank}.safetensors" for rank in range(processes)}
    with pytest.raises(AssertionError):
        assert_close_gradients(one["gradients"], load(f"{processes}-0-rogue")["gradients"])


def test_a_new_sam_avoids_the_traps_of_the_stock_defaults() -> None:
    model = new_sam(PretrainArguments(image_size=64, hidden_size=48, num_hidden_layers=2, num_attention_heads=3))
    assert model.vision_encoder.neck.conv1.weight.std().item() == pytest.approx(48**-0.5, rel=0.1)
    assert model.shared_image_embedding.scale == 1.0
    assert model.vision_encoder.pos_embed.std() > 0.01


def test_an_encoder_starts_from_a_vit(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=64,
        layer_norm_eps=1e-6,
    )
    vit = ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    vit.save_pretrained(tmp_path)
    assert_encoder_is(vit, str(tmp_path), image_size=64)


@pytest.mark.shared
def test_an_encoder_starts_from_a_real_deit(shared: Path) -> None:
    folder = str(shared / "weights" / "deit-tiny-patch16-224")
    assert_encoder_is(AutoModel.from_pretrained(folder, add_pooling_layer=False).eval(), folder, image_size=224)


def assert_encoder_is(vit: ViTModel, folder: str, image_size: int) -> None:
    """Without its class token a ViT's blocks and SAM's (no relative positions yet) are the same function."""
    model = new_sam(PretrainArguments(image_size=image_size, encoder=folder, window_size=0)).eval()
    images = torch.randn(1, 3, image_size, image_size)
    with torch.no_grad():
        hidden = vit.embeddings(images)[:, 1:]
        for layer in vit.layers:
            hidden = layer(hidden)
        ours = model.vision_encoder(images, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(ours.flatten(1, 2), hidden, atol=1e-4 * hidden.abs().max().item())


def test_another_architecture_is_no_encoder(stock_folder: Path) -> None:
    with pytest.raises(ValueError, match="`encoder` must be a ViT or DeiT"):
        new_sam(PretrainArguments(encoder=str(stock_folder)))


def test_prompts_of_points_train_as_well(stock_folder: Path, shapes_loader: Callable) -> None:
    model = SuperSamModel.from_pretrained(stock_folder)
    batch = next(iter(shapes_loader(prompt="point")))
    assert predict(model, batch, None).pred_masks.shape == (4, 3, 1, 16, 16)
    assert tiny_config().vision_config.image_size == 64
