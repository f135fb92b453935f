"""Classifier training: mixing, losses, drop path, average and layer decay against literal formulas; resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from classify_script import LABELS, run_with, stripes, tiny_vit, train
from scipy import stats
from torch.utils.data import DataLoader
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTConfig, ViTForImageClassification

from supersam_hf import SuperSamModel
from supersam_hf.models.ofb_vit import OfbViTConfig, OfbViTForImageClassification
from supersam_hf.training.arguments import lr_factor
from supersam_hf.training.checkpoints import checkpoints
from supersam_hf.training.classify import (
    ClassificationLossArguments,
    MixArguments,
    classification_loss,
    classifier_step,
    mix_batch,
    seed_step,
)
from supersam_hf.training.drop_path import DropPath
from supersam_hf.training.ema import Ema
from supersam_hf.training.engine import Engine
from supersam_hf.training.finetune import ClassifierFinetuneArguments, FinetuneArguments, finetune, finetune_classifier
from supersam_hf.training.layer_decay import layer_decay_groups
from supersam_hf.training.pretrain_classifier import PretrainClassifierArguments, new_classifier


PLAIN = {"mix": MixArguments(mixup_alpha=0, cutmix_alpha=0), "drop_path_rate": 0.0, "warmup_steps": 0}


def batch_of(size: int = 6, height: int = 9, width: int = 14) -> dict[str, torch.Tensor]:
    """Images of one value each, 1 to `size`, so that every pixel tells where it comes from."""
    values = torch.arange(1.0, size + 1)[:, None, None, None]
    return {"pixel_values": values.expand(-1, 3, height, width).clone(), "labels": torch.arange(size) % 5}


def mixed(args: MixArguments, seed: int, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return mix_batch(batch, args, 5, torch.Generator().manual_seed(seed))


def test_without_mixing_targets_are_one_hot() -> None:
    batch = batch_of()
    for args in (MixArguments(mixup_alpha=0, cutmix_alpha=0), MixArguments(prob=0)):
        images, targets = mixed(args, 0, batch)
        assert torch.equal(images, batch["pixel_values"])
        assert torch.equal(targets, torch.eye(5)[batch["labels"]])


def test_mixup_mixes_images_and_labels_alike_by_a_share_from_beta() -> None:
    batch, shares = batch_of(), []
    for seed in range(300):
        images, targets = mixed(MixArguments(mixup_alpha=0.8, cutmix_alpha=0), seed, batch)
        share = targets[1, 1].item()  # images 1 and 4 are partners
        shares.append(share)
        whole = torch.eye(5)[batch["labels"]]
        assert torch.allclose(targets, share * whole + (1 - share) * whole.flip(0), atol=1e-6)
        expected = share * batch["pixel_values"] + (1 - share) * batch["pixel_values"].flip(0)
        assert torch.allclose(images, expected, atol=1e-5)
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 0.01


def test_cutmix_targets_are_the_true_areas_of_one_box() -> None:
    batch, clipped = batch_of(), 0
    for seed in range(200):
        images, targets = mixed(MixArguments(mixup_alpha=0), seed, batch)
        pasted = images[1, 0] == 5
        assert torch.equal(images[1], torch.where(pasted, 5.0, 2.0).expand(3, -1, -1))
        assert targets[1, 1].item() == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)
        assert torch.allclose(targets.sum(-1), torch.ones(6))
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns)
        clipped += bool(pasted[[0, -1]].any() or pasted[:, [0, -1]].any())
    assert 50 < clipped < 200
    assert torch.equal(batch["pixel_values"], batch_of()["pixel_values"])


def test_probabilities_of_mixing_and_of_cutmix() -> None:
    args, counts = MixArguments(prob=0.6, switch_prob=0.25), {"none": 0, "cutmix": 0, "mixup": 0}
    for seed in range(1000):
        images, _ = mixed(args, seed, batch_of(2))
        values = set(images.flatten().tolist())
        counts[
            "none"
            if torch.equal(images, batch_of(2)["pixel_values"])
            else "cutmix"
            if values <= {1.0, 2.0}
            else "mixup"
        ] += 1
    # an empty box counts as none
    assert counts["mixup"] == pytest.approx(450, abs=50)
    assert counts["cutmix"] == pytest.approx(150, abs=40)


def test_mixing_and_dropout_depend_on_seed_step_and_process() -> None:
    def draw(*key: int) -> tuple[float, float]:
        share = mixed_share(seed_step(*key))
        return share, torch.rand(()).item()

    def mixed_share(generator: torch.Generator) -> float:
        return mix_batch(batch_of(), MixArguments(cutmix_alpha=0), 5, generator)[1][1, 1].item()

    assert draw(0, 3, 1) == draw(0, 3, 1)
    others = [draw(*key) for key in ((0, 3, 1), (0, 3, 0), (0, 4, 1), (1, 3, 1), (3, 0, 1))]
    assert len({share for share, _ in others}) == len({noise for _, noise in others}) == len(others)


def softmax_by_hand(logits: torch.Tensor) -> torch.Tensor:
    powers = logits.double().exp()
    return powers / powers.sum(-1, keepdim=True)


def test_the_loss_is_cross_entropy_with_targets_smoothed_once() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(7, 5, generator=generator), torch.rand(7, 5, generator=generator).softmax(-1)
    smoothed = 0.9 * targets.double() + 0.1 / 5
    expected = -(smoothed * softmax_by_hand(logits).log()).sum(-1).mean()
    assert classification_loss(logits, targets, ClassificationLossArguments()).item() == pytest.approx(expected.item())
    with torch.autocast("cpu", torch.bfloat16):
        loss = classification_loss(1000 * logits.bfloat16(), targets, ClassificationLossArguments())
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_distillation_is_deit_s() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, teacher = torch.randn(2, 7, 5, generator=generator)
    targets = torch.eye(5)[torch.arange(7) % 5]
    plain = -(targets * softmax_by_hand(logits).log()).sum(-1).mean()
    p, q = softmax_by_hand(teacher / 3), softmax_by_hand(logits / 3)
    divergence = (p * (p / q).log()).sum(-1).mean()
    soft = ClassificationLossArguments(0.0, "soft", distillation_weight=0.3, temperature=3.0)
    loss = classification_loss(logits, targets, soft, teacher)
    assert loss.item() == pytest.approx((0.7 * plain + 0.3 * 9 * divergence).item())
    imitation = -softmax_by_hand(logits).log()[torch.arange(7), teacher.argmax(-1)].mean()
    hard = ClassificationLossArguments(0.0, "hard")
    loss = classification_loss(logits, targets, hard, teacher)
    assert loss.item() == pytest.approx((0.5 * plain + 0.5 * imitation).item())
    for wrong in (None, teacher[:, :4]):
        with pytest.raises(ValueError, match="`teacher_logits`"):
            classification_loss(logits, targets, hard, wrong)


def test_drop_path_drops_whole_branches_of_images_and_keeps_the_expectation() -> None:
    model = tiny_vit()
    layers = model.vit.layers
    branches = [branch for layer in layers for branch in (layer.attention.o_proj, layer.mlp.fc2)]
    for branch in branches:
        torch.nn.init.ones_(branch.weight)
        torch.nn.init.ones_(branch.bias)
    drop_path = DropPath(model, 0.4)
    seen: dict[torch.nn.Module, torch.Tensor] = {}

    def see(branch: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        seen[branch] = (output / F.linear(inputs[0], branch.weight, branch.bias)).flatten(1)

    def factors() -> list[torch.Tensor]:
        """Of every branch and image, by what its output was multiplied."""
        handles = [branch.register_forward_hook(see) for branch in branches]
        for layer in layers:
            layer(torch.rand(400, 3, model.config.hidden_size))
        for handle in handles:
            handle.remove()
        return [seen[branch] for branch in branches]

    model.train()
    torch.manual_seed(0)
    for rate, factor in zip((0, 0, 0.2, 0.2, 0.4, 0.4), factors()):
        assert torch.allclose(factor, factor[:, :1].expand_as(factor), atol=1e-5)
        kept = factor[:, 0] > 0
        assert torch.allclose(factor[kept, 0], torch.tensor(1 / (1 - rate)), atol=1e-5)
        assert 1 - kept.float().mean().item() == pytest.approx(rate, abs=0.06)
    model.eval()
    assert all((factor == 1).all() for factor in factors())
    assert model.state_dict().keys() == tiny_vit().state_dict().keys()
    drop_path.remove()
    model.train()
    assert all((factor == 1).all() for factor in factors())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    DropPath(model, 0.0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_loop_written_out(warmup: bool) -> None:
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    ema, expected = Ema(model, 0.95, warmup), model.weight.detach().double().clone()
    for t in range(300):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(model)
        decay = min(0.95, (1 + t) / (10 + t)) if warmup else 0.95
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    assert torch.allclose(ema.shadow["weight"].double(), expected, atol=1e-4)
    own = model.weight.detach().clone()
    with ema.average_parameters(model):
        assert torch.allclose(model.weight.double(), expected, atol=1e-4)
    assert torch.equal(model.weight, own)
    restored = Ema(torch.nn.Linear(3, 2).requires_grad_(True), 0.95, warmup)
    with pytest.raises(ValueError, match=r"another model.*\['bias'\]"):
        restored.load_state_dict(ema.state_dict())


def test_the_average_of_a_half_precision_model_is_float32() -> None:
    model = torch.nn.Linear(3, 2).bfloat16()
    ema, start = Ema(model, 0.999, warmup=False), model.weight.detach().float()
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(model)
    moved = ema.shadow["weight"] - start
    assert torch.allclose(moved, 0.001 * (model.weight.float() - start), atol=1e-6)


def rates(model: torch.nn.Module, decay: float) -> dict[str, tuple[float, float]]:
    """Learning rate over the peak and weight decay by parameter name; every trainable parameter is in one group."""
    groups = layer_decay_groups(model, 0.5, 0.05, decay)
    found = {id(p): (group["lr"] / 0.5, group["weight_decay"]) for group in groups for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == len(found) == sum(len(group["params"]) for group in groups)
    return {name: found[id(p)] for name, p in trained.items()}


def test_layer_decay_of_a_vit() -> None:
    got = rates(tiny_vit(), 0.9)
    for name, rate in {
        "classifier.weight": (1, 0.05),
        "classifier.bias": (1, 0),
        "vit.layernorm.weight": (1, 0),
        "vit.layers.2.mlp.fc1.weight": (0.9, 0.05),
        "vit.layers.2.mlp.fc1.bias": (0.9, 0),
        "vit.layers.0.attention.q_proj.weight": (0.9**3, 0.05),
        "vit.embeddings.patch_embeddings.projection.weight": (0.9**4, 0.05),
        "vit.embeddings.position_embeddings": (0.9**4, 0),
        "vit.embeddings.cls_token": (0.9**4, 0),
    }.items():
        assert got[name] == pytest.approx(rate), name
    stock = ViTForImageClassification(ViTConfig(hidden_size=24, num_hidden_layers=3, num_attention_heads=2))
    assert got == rates(stock, 0.9)


def test_layer_decay_of_a_sam_takes_the_decoder_s_layers_for_its_head(supernet: SuperSamModel) -> None:
    got = rates(supernet, 0.9)
    assert got["mask_decoder.transformer.layers.0.mlp.lin2.weight"] == pytest.approx((1, 0.05))
    assert got["vision_encoder.neck.conv1.weight"] == pytest.approx((1, 0.05))
    assert got["vision_encoder.layers.5.mlp.lin1.weight"] == pytest.approx((0.9, 0.05))
    assert got["vision_encoder.layers.0.attn.rel_pos_h"] == pytest.approx((0.9**6, 0))
    assert got["vision_encoder.patch_embed.projection.weight"] == pytest.approx((0.9**7, 0.05))
    assert got["vision_encoder.pos_embed"] == pytest.approx((0.9**7, 0))


def test_without_layer_decay_there_are_two_groups() -> None:
    groups = layer_decay_groups(tiny_vit(), 0.5, 0.05, 1.0)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.05), (0.5, 0.0)]
    with pytest.raises(ValueError, match="needs an encoder of blocks, unlike Linear"):
        layer_decay_groups(torch.nn.Linear(2, 2), 0.5, 0.05, 0.9)


def expected_training(loader: DataLoader, args: ClassifierFinetuneArguments) -> tuple[dict, dict]:
    """Layer decay, smoothing and average in plain PyTorch: the weights of the last step and their average."""
    model, depth = tiny_vit().train(), 3
    groups = []
    for name, parameter in model.named_parameters():
        above = 0 if name.startswith(("classifier", "vit.layernorm")) else depth + 1
        if ".layers." in name:
            above = depth - int(name.split(".")[2])
        undecayed = parameter.ndim == 1 or "token" in name or "position" in name
        rate = args.learning_rate * args.layer_decay**above
        groups.append({"params": [parameter], "lr": rate, "weight_decay": 0 if undecayed else args.weight_decay})
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, args))
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    for batch in loader:
        loss = F.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for name, p in model.named_parameters():
            average[name] = 0.7 * average[name] + 0.3 * p.detach()
    return dict(model.named_parameters()), average


def test_finetuning_is_the_loop_written_out_and_returns_the_average(tmp_path: Path) -> None:
    args = ClassifierFinetuneArguments(
        max_steps=5, learning_rate=1e-3, eval_steps=5, layer_decay=0.8, ema_decay=0.7, ema_warmup=False, **PLAIN
    )
    last, average = expected_training(stripes(), args)
    seen = {}

    def evaluate(engine: Engine) -> dict[str, float]:
        seen.update({name: p.detach().clone() for name, p in engine.unwrapped.named_parameters()})
        return {"top1": 0.0}

    trained = finetune_classifier(tiny_vit(), stripes(), args, tmp_path, evaluate=evaluate)
    for name, parameter in trained.named_parameters():
        assert torch.allclose(parameter, average[name], atol=2e-5), name
        assert torch.equal(parameter, seen[name])
    assert not torch.allclose(trained.classifier.weight, last["classifier.weight"], atol=1e-4)


def test_gradient_accumulation_is_a_larger_batch(tmp_path: Path) -> None:
    results = []
    for batch_size, accumulate in ((8, 1), (2, 4)):
        model = tiny_vit()
        args = ClassifierFinetuneArguments(gradient_accumulation_steps=accumulate)
        engine = Engine(model, stripes(8, batch_size), args, tmp_path / str(batch_size))
        engine.optimizer_step = lambda: None  # type: ignore[method-assign]
        classifier_step(engine, next(engine.batches()), PLAIN["mix"], args.loss)
        results.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results))


def test_killed_in_mid_epoch_and_resumed_is_the_same_run(tmp_path: Path) -> None:
    """With mixing, drop path, average and layer decay; killed by SIGKILL after step 8, checkpoint at 5."""
    died = run_with("8", tmp_path / "killed")
    assert died.returncode == -9, died.stderr[-4000:]
    assert [c.name for c in checkpoints(tmp_path / "killed")] == ["checkpoint-00000005"]
    whole, resumed = train(tmp_path / "whole"), train(tmp_path / "killed")
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters()):
        assert torch.equal(a, b), name
    logs = [[json.loads(line) for line in (tmp_path / d / "log.jsonl").open()] for d in ("whole", "killed")]
    losses = [[(line["step"], line["loss"]) for line in log] for log in logs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_drop_path_of_a_model_whose_own_ends_both_branches() -> None:
    """DINOv2 has one module for both and layers elsewhere: each branch is left out as often as asked, not twice."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 4, "patch_size": 2}
    model = Dinov2ForImageClassification(Dinov2Config(**sizes, drop_path_rate=0.3)).train()
    DropPath(model, 0.5)
    layer, dropped = model.dinov2.encoder.layer[1], []
    for scale in (layer.layer_scale1, layer.layer_scale2):
        scale.register_forward_hook(lambda module, args, output: dropped.append((args[0] == 0).flatten(1).all(1)))
    model(torch.randn(2000, 3, 4, 4))
    assert [share.float().mean().item() for share in dropped] == pytest.approx([0.5, 0.5], abs=0.04)
    assert len(rates(model, 0.9)) == len(list(model.parameters()))
    assert rates(model, 0.9)["dinov2.encoder.layer.1.mlp.fc1.weight"][0] == pytest.approx(0.9)
    assert rates(model, 0.9)["dinov2.embeddings.cls_token"] == pytest.approx((0.9**3, 0))


def test_drop_path_survives_gradient_checkpointing(tmp_path: Path) -> None:
    """The second forward of a layer, in the backward pass, drops what the first dropped."""
    results = []
    for checkpointing in (False, True):
        model = tiny_vit()
        DropPath(model, 0.5)
        args = ClassifierFinetuneArguments(gradient_checkpointing=checkpointing)
        engine = Engine(model.train(), stripes(), args, tmp_path / str(checkpointing))
        engine.optimizer_step = lambda: None  # type: ignore[method-assign]
        classifier_step(engine, next(engine.batches()), args.mix, args.loss)
        results.append([p.grad for p in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*results))


def test_both_heads_of_a_distilled_model_are_trained(tmp_path: Path) -> None:
    config = OfbViTConfig(
        **{**tiny_vit().config.to_dict(), "distillation_token": True, "distillation_head": True, "num_labels": 3}
    )
    model = OfbViTForImageClassification(config)
    heads = (model.classifier, model.distillation_classifier)
    before = [head.weight.detach().clone() for head in heads]
    args = ClassifierFinetuneArguments(max_steps=1, save_steps=0, ema_decay=None, **PLAIN)
    finetune_classifier(model, stripes(), args, tmp_path)
    assert not any(torch.equal(head.weight, old) for head, old in zip(heads, before))
    assert rates(model, 0.9)["vit.embeddings.distillation_token"] == pytest.approx((0.9**4, 0))


def test_a_student_learns_its_teacher_s_labels(tmp_path: Path) -> None:
    """The teacher says "red" to everything; at weight 1 the data's labels do not count."""
    teacher = tiny_vit(seed=1)
    torch.nn.init.zeros_(teacher.classifier.weight)
    teacher.classifier.bias.data.copy_(torch.tensor([9.0, 0.0, 0.0]))
    args = ClassifierFinetuneArguments(max_steps=20, learning_rate=3e-3, ema_decay=None, save_steps=20, **PLAIN)
    args.loss = ClassificationLossArguments(distillation="hard", distillation_weight=1.0)
    student = finetune_classifier(tiny_vit(), stripes(), args, tmp_path, teacher=teacher).eval()
    assert (student(next(iter(stripes()))["pixel_values"]).logits.argmax(-1) == 0).all()
    with pytest.raises(ValueError, match="`teacher`"):
        finetune_classifier(tiny_vit(), stripes(), args, tmp_path, teacher=tiny_vit(seed=2))


def test_a_new_classifier_learns(tmp_path: Path) -> None:
    args = PretrainClassifierArguments(max_steps=40, warmup_steps=5, learning_rate=3e-3, save_steps=0)
    model = finetune_classifier(tiny_vit(), stripes(40, 8), args, tmp_path).eval()
    batch = next(iter(stripes(40, 40, seed=5)))
    assert (model(batch["pixel_values"]).logits.argmax(-1) == batch["labels"]).float().mean() > 0.9
    assert model.config.id2label == dict(enumerate(LABELS))


def test_a_new_classifier_depends_on_its_seed_alone() -> None:
    args = PretrainClassifierArguments(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    first, torch_state = new_classifier(args, LABELS), torch.rand(3)
    assert torch.equal(first.vit.embeddings.cls_token, new_classifier(args, LABELS).vit.embeddings.cls_token)
    assert torch_state.shape == (3,)


def test_a_sam_is_finetuned_with_average_and_layer_decay(
    stock_folder: Path, shapes_loader: Callable, tmp_path: Path
) -> None:
    results = {}
    for name, decay in (("plain", None), ("averaged", 0.9)):
        args = FinetuneArguments(max_steps=2, learning_rate=1e-3, save_steps=0, layer_decay=0.9, ema_decay=decay)
        model = SuperSamModel.from_pretrained(stock_folder)
        results[name] = finetune(model, shapes_loader(2, 2), args, tmp_path / name).mask_decoder.iou_token.weight
    start = SuperSamModel.from_pretrained(stock_folder).mask_decoder.iou_token.weight
    moved = [(results[name] - start).abs().mean().item() for name in ("averaged", "plain")]
    assert 0 < moved[0] < moved[1]


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for kind, values in (
        (MixArguments, {"mixup_alpha": -1, "cutmix_alpha": -0.1, "prob": 1.2, "switch_prob": -1}),
        (
            ClassificationLossArguments,
            {"label_smoothing": 1.0, "distillation": "firm", "distillation_weight": 2, "temperature": 0},
        ),
        (ClassifierFinetuneArguments, {"layer_decay": 0.0, "ema_decay": 1.0, "drop_path_rate": 1.0, "teacher": "x"}),
        (FinetuneArguments, {"layer_decay": 1.5, "ema_decay": 0.0}),
        (PretrainClassifierArguments, {"image_size": 30, "hidden_size": 33, "num_hidden_layers": 0, "mlp_ratio": 0}),
    ):
        for field, value in values.items():
            with pytest.raises(ValueError, match=f"`{field}`"):
                kind(**{field: value})
    with pytest.raises(ValueError, match=r"2 labels and the data 3.*select_labels"):
        finetune_classifier(tiny_vit(labels=["a", "b"]), stripes(), ClassifierFinetuneArguments(), tmp_path)
    args = ClassifierFinetuneArguments(loss=ClassificationLossArguments(distillation="soft"))
    with pytest.raises(ValueError, match=r"`loss.distillation` is soft, and no teacher"):
        finetune_classifier(tiny_vit(), stripes(), args, tmp_path)
    for kind, name in ((DropPath, "drop_path_rate"), (Ema, "ema_decay")):
        with pytest.raises(ValueError, match=f"`{name}`"):
            kind(tiny_vit(), 1.0)
    assert not list(tmp_path.iterdir())
