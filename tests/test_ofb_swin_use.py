"""A Swin everywhere that a ViT goes: trained, searched, exported, deployed, measured, in a run of the pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bimask_script import search_arguments
from classify_script import LABELS, stripes
from conftest import forget_remote_code
from test_bimask_swin import images, tiny_swin
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    dynamic_module_utils,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from supersam_hf import OfbSwinForImageClassification, count_macs, count_parameters, export, measure_model
from supersam_hf.bimask.extract import deploy
from supersam_hf.bimask.masking import MaskedModel
from supersam_hf.bimask.prune import cut_to_live
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.classification import evaluate_classifier
from supersam_hf.deploy import OnnxClassifier, export_onnx
from supersam_hf.models.classifiers import load_classifier
from supersam_hf.pipeline.publish import publication as published
from supersam_hf.training.bimask import train_bimask
from supersam_hf.training.drop_path import DropPath
from supersam_hf.training.finetune import ClassifierFinetuneArguments, finetune_classifier
from supersam_hf.training.layer_decay import layer_decay_groups
from supersam_hf.training.pretrain_classifier import PretrainClassifierArguments, new_classifier
from supersam_hf_cli import main


SIZES: dict[str, Any] = {"image_size": 16, "patch_size": 2, "hidden_size": 16, "depths": [1, 2], "window_size": 4}


def small_swin(**values: Any) -> OfbSwinForImageClassification:
    """8 x 8 patches of 16 px images, two stages."""
    args = PretrainClassifierArguments(**{**SIZES, "num_attention_heads": 2, **values})
    return new_classifier(args, LABELS)


def cut_swin() -> OfbSwinForImageClassification:
    """A network of uneven widths, as a search leaves it."""
    masked = MaskedModel(tiny_swin(), SearchSpace(), pmim=None)
    for i, mask in enumerate(masked.masks.values()):
        mask.live.zero_()
        mask.live[i % len(mask.group_sizes), i % len(mask.unit_sizes)] = True
    cut_to_live(masked)
    return deploy(masked).eval()


def test_a_new_swin_has_the_sizes_asked_for() -> None:
    model = small_swin()
    assert isinstance(model, OfbSwinForImageClassification)
    config: Any = model.config
    assert (config.hidden_sizes, config.depths, config.num_heads) == ([16, 32], [1, 2], [2, 4])
    assert (config.window_size, config.id2label) == (4, dict(enumerate(LABELS)))
    with pytest.raises(ValueError, match=r"`depths\[1\]` must be a whole number from 1"):
        PretrainClassifierArguments(**{**SIZES, "depths": [2, 0]})


def test_a_swin_learns_is_searched_and_keeps_what_it_learned(tmp_path: Path) -> None:
    loader = stripes(96, batch_size=8)
    args = ClassifierFinetuneArguments(max_steps=60, learning_rate=3e-3, warmup_steps=5, save_steps=0, ema_decay=None)
    model = finetune_classifier(small_swin(), loader, args, tmp_path / "whole")
    whole = evaluate_classifier(model, stripes(96, batch_size=8)).top1
    assert whole > 0.9
    macs = count_macs(model.config)
    search_args = search_arguments(max_macs=0.5, max_steps=60, search_steps=40, save_steps=0)
    found, report = train_bimask(model, SearchSpace(), loader, search_args, tmp_path / "search")
    assert report["macs"] == count_macs(found.config) <= 0.5 * macs
    assert report["params"] == count_parameters(found.config) == sum(p.numel() for p in found.parameters())
    assert report["architecture"]["hidden_sizes"] == found.config.hidden_sizes
    assert evaluate_classifier(found, stripes(96, batch_size=8)).top1 > 0.6
    logged = [json.loads(line) for line in (tmp_path / "search" / "log.jsonl").read_text().splitlines()]
    assert all(line["loss_reconstruction"] > 0 for line in logged[:5])


def test_layer_decay_goes_down_block_by_block() -> None:
    model = small_swin()
    groups = layer_decay_groups(model, 1.0, 0.05, 0.9)
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    got = {name: rate[id(p)] for name, p in model.named_parameters()}
    encoder = "swin.encoder.layers"
    for name, expected in {
        "classifier.weight": (1, 0.05),
        "swin.layernorm.weight": (1, 0),
        f"{encoder}.1.blocks.1.mlp.fc1.weight": (0.9, 0.05),
        f"{encoder}.1.blocks.0.mlp.fc1.weight": (0.9**2, 0.05),
        f"{encoder}.1.blocks.0.attention.relative_position_bias.relative_position_bias_table": (0.9**2, 0),
        f"{encoder}.0.downsample.reduction.weight": (0.9**3, 0.05),
        f"{encoder}.0.blocks.0.attention.q_proj.weight": (0.9**3, 0.05),
        "swin.embeddings.patch_embeddings.projection.weight": (0.9**4, 0.05),
    }.items():
        assert got[name] == pytest.approx(expected), name


def test_stochastic_depth_drops_images_and_not_windows() -> None:
    """Of an image whose branches are all left out, what comes out of the encoder is what went in; and the model's own
    rate comes back."""
    torch.manual_seed(0)
    config = SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[4], num_heads=[2], window_size=4)
    config.drop_path_rate = 0.3
    model = SwinForImageClassification(config).train()
    drop = DropPath(model, 0.99)
    blocks = model.swin.encoder.layers[0].blocks
    whole: list[torch.Tensor] = []
    handle = blocks[3].drop_path.register_forward_hook(lambda module, args, output: whole.append(output.flatten(1)))
    model(torch.randn(64, 3, 16, 16))
    handle.remove()
    gone = (whole[0] == 0).float().mean(1)
    assert set(gone.tolist()) <= {0.0, 1.0}
    assert gone.mean() > 0.9
    drop.remove()
    assert [round(block.drop_path.drop_prob, 6) for block in blocks[1:]] == [0.1, 0.2, 0.3]


def test_labels_are_selected_and_replaced() -> None:
    model = cut_swin()
    whole = model(images()).logits
    model.select_labels([3, 1])
    torch.testing.assert_close(model(images()).logits, whole[:, [3, 1]])
    assert model.config.id2label == {0: "LABEL_3", 1: "LABEL_1"}
    for wrong in ([], [0, 0], [2]):
        with pytest.raises(ValueError, match="`indices` must be one or more of the labels 0 to 1"):
            model.select_labels(wrong)
    model.reset_classifier(["a", "b", "c"])
    assert model(images(), labels=torch.tensor([0, 2])).logits.shape == (2, 3)
    with pytest.raises(ValueError, match="`names` must be one or more labels"):
        model.reset_classifier(["a", "a"])


def test_a_found_swin_is_exported_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = cut_swin()
    folder = export(model, tmp_path / "out", processor=ViTImageProcessorPil(size={"height": 32, "width": 32}))
    code = {"configuration_ofb_swin.py", "modeling_ofb_swin.py"}
    assert code < {path.name for path in folder.iterdir()}
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    forget_remote_code(monkeypatch)
    loaded = [load_classifier(folder).eval(), AutoModelForImageClassification.from_pretrained(folder).eval()]
    with torch.no_grad():
        for again in loaded:
            assert torch.equal(again(images()).logits, model(images()).logits)
    again = export(loaded[0], tmp_path / "again", processor=AutoImageProcessor.from_pretrained(folder))
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_found_swin_loads_where_the_package_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_python: Callable
) -> None:
    model = cut_swin()
    export(model, tmp_path / "hub", processor=ViTImageProcessorPil(size={"height": 32, "width": 32}))
    script = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "supersam_hf":
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.no_grad():
    torch.save(model(torch.load(sys.argv[2])).logits, sys.argv[2])
"""
    torch.save(images(), tmp_path / "tensors.pt")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    run_python(script, tmp_path / "hub", tmp_path / "tensors.pt")
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "tensors.pt"), model(images()).logits)


def test_onnx_gives_its_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = cut_swin()
    export_onnx(model, tmp_path)
    with torch.no_grad():
        for batch in (1, 3):
            pixels = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
            found = OnnxClassifier(tmp_path)(pixels).logits
            assert (found - model(pixels).logits).abs().max() < 1e-4


def test_it_is_measured() -> None:
    model = cut_swin()
    found = measure_model(model, repeats=1, warmup=0, memory=False)
    assert (found.parameters, found.macs) == (count_parameters(model.config), count_macs(model.config))
    assert found.image_size == 32


@pytest.mark.slow
def test_a_run_from_scratch_to_its_report(tmp_path: Path) -> None:
    """`ofb run` of a Swin on generated shapes, dry and real: pictures, report, page."""
    options = ["--output_dir", str(tmp_path / "run"), "--data.source", "shapes", "--data.shapes_image_size", "16"]
    options += ["--data.shapes_train_images", "200", "--data.shapes_eval_images", "50", "--data.batch_size", "16"]
    sizes = {"image_size": 16, "patch_size": 2, "hidden_size": 16, "depths": "[1,2]", "num_attention_heads": 2}
    for name, value in {"enabled": "true", **sizes, "window_size": 4, "max_steps": 10, "warmup_steps": 0}.items():
        options += [f"--pretrain.{name}", str(value)]
    options += ["--search.max_macs", "0.6", "--search.max_steps", "12", "--search.search_steps", "8"]
    options += ["--search.prune_steps", "2", "--finetune.max_steps", "5", "--measure.repeats", "1"]
    options += ["--finetune.warmup_steps", "0", "--search.warmup_steps", "0"]
    assert main(["ofb", "run", *options, "--dry_run"]) == 0
    assert not (tmp_path / "run").exists()
    assert main(["ofb", "run", *options]) == 0
    run = tmp_path / "run"
    found = load_classifier(run / "finetuned")
    report = json.loads((run / "search.json").read_text())
    assert count_macs(found.config) == report["macs"] <= 0.6 * report["original"]["macs"]
    rows = {row["name"]: row for row in json.loads((run / "results.json").read_text())["rows"]}
    assert rows["finetuned"]["macs"] == report["macs"]
    found_card = published(run, "finetuned", repo_id="someone/swin")
    assert found_card.model.config.hidden_sizes == report["architecture"]["hidden_sizes"]
    kept = ", ".join(map(str, report["architecture"]["hidden_sizes"]))
    assert f"The stages keep {kept} of 16, 32 channels." in found_card.card
