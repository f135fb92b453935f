"""Bi-masks on a SAM's image encoder: masked, cut, extracted and reloaded are the same function; cost; training."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomised, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from supersam_hf import SuperSamConfig, SuperSamModel, count_macs, count_parameters
from supersam_hf.bimask.cost import full_cost, physical_shape, smallest_shape, soft_cost
from supersam_hf.bimask.extract import architecture, deploy
from supersam_hf.bimask.masking import MaskedModel
from supersam_hf.bimask.prune import cut_to_live
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.models.supersam import Subnet
from supersam_hf.pipeline.publish import publication
from supersam_hf.training.bimask_sam import SamBiMaskArguments, encoder_space, train_sam_bimask
from supersam_hf_cli import main


def tiny_sam(**vision: Any) -> SuperSamModel:
    return randomised(SuperSamModel(SuperSamConfig(**tiny_config(**vision).to_dict())))


def masked_sam(lam: float = 0.4, implementation: str = "sdpa", **vision: Any) -> MaskedModel:
    model = tiny_sam(**vision)
    model.set_attn_implementation(implementation)
    masked = MaskedModel(model, encoder_space(), generator=torch.Generator().manual_seed(1), pmim=None).eval()
    masked.lam = lam
    torch.manual_seed(3)
    for mask in masked.masks.values():
        torch.nn.init.normal_(mask.score)
    return masked


def decide(masked: MaskedModel, generator: torch.Generator) -> None:
    """One random cell of every mask."""
    for mask in masked.masks.values():
        row = int(torch.randint(len(mask.group_sizes), (), generator=generator))
        column = int(torch.randint(len(mask.unit_sizes), (), generator=generator))
        mask.live.zero_()
        mask.live[row, column] = True


@pytest.mark.parametrize("seed", range(24))
def test_masked_equals_cut_equals_reloaded(seed: int, inputs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    values = [{}, {"qkv_bias": False}, {"use_rel_pos": False}, {"window_size": 4}][seed % 4]
    masked = masked_sam(implementation=("sdpa", "eager")[seed % 2], **values)
    decide(masked, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        by_mask = masked(**inputs).pred_masks
        cut_to_live(masked)
        by_cut = masked(**inputs).pred_masks
        sizes = architecture(masked.model)
        deployed = deploy(masked)
        extracted = deployed(**inputs).pred_masks
        deployed.save_pretrained(tmp_path)
        reloaded = SuperSamModel.from_pretrained(tmp_path, attn_implementation=deployed.config._attn_implementation)
        again = reloaded.eval()(**inputs).pred_masks
    tolerance = 2e-5 * by_mask.abs().max()
    assert (by_cut - by_mask).abs().max() <= tolerance
    assert (extracted - by_mask).abs().max() <= tolerance
    torch.testing.assert_close(again, extracted, rtol=0, atol=0)
    assert architecture(reloaded) == sizes
    assert reloaded.config.vision_config.layer_heads == sizes["num_attention_heads"]
    assert sum(p.numel() for p in reloaded.parameters()) == count_parameters(reloaded.config)


def test_heads_keep_the_same_channels_as_they_share_relative_positions() -> None:
    masked = masked_sam(lam=1.0)
    mask = masked.masks["attention.1"]
    kept = mask.importance().sum(0).argsort(descending=True)[:8].sort().values
    for name, other in masked.masks.items():
        other.live.zero_()
        other.live[(-1, other.unit_sizes.index(8)) if name == "attention.1" else (-1, -1)] = True
    attention = masked.model.vision_encoder.layers[1].attn
    weight, positions = attention.qkv.weight.detach().clone(), attention.rel_pos_h.detach().clone()
    cut_to_live(masked)
    assert torch.equal(attention.rel_pos_h, positions[:, kept])
    # (q, k and v, heads, channels, ...)
    assert torch.equal(attention.qkv.weight, weight.unflatten(0, (3, 3, 16))[:, :, kept].flatten(0, 2))


@pytest.mark.parametrize("values", [{}, {"qkv_bias": False}, {"use_rel_pos": False}, {"window_size": 0}])
def test_the_soft_cost_is_the_closed_form(values: dict[str, Any]) -> None:
    """Where nothing is masked, and of decided masks where every head is kept: relative positions are shared."""
    masked = masked_sam(**values)
    shape = physical_shape(masked.model)
    assert full_cost(shape, "macs") == pytest.approx(count_macs(masked.config), rel=1e-12)
    assert full_cost(shape, "params") == pytest.approx(count_parameters(masked.config), rel=1e-12)
    generator = torch.Generator().manual_seed(4)
    for mask in masked.masks.values():
        mask.live.zero_()
        mask.live[-1, int(torch.randint(len(mask.unit_sizes), (), generator=generator))] = True
    soft = {kind: float(soft_cost(masked, kind)) for kind in ("macs", "params")}
    cut_to_live(masked)
    after = physical_shape(masked.model)
    assert soft["macs"] == pytest.approx(count_macs(after), rel=1e-6)
    assert soft["params"] == pytest.approx(count_parameters(after), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_closed_form_counts_layers_with_different_heads(seed: int) -> None:
    masked = masked_sam(implementation="eager")
    decide(masked, torch.Generator().manual_seed(seed))
    cut_to_live(masked)
    found = deploy(masked)
    assert len(set(found.config.vision_config.layer_heads)) > 1
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        found.vision_encoder(torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() == 2 * count_macs(found.config)


def test_layers_with_different_heads_are_extracted_too(inputs: dict[str, torch.Tensor]) -> None:
    masked = masked_sam()
    decide(masked, torch.Generator().manual_seed(0))
    cut_to_live(masked)
    found = deploy(masked).eval()
    encoder = found.vision_encoder
    subnet = Subnet(
        (0, 2, 3), *(tuple(widths[i] for i in (0, 2, 3)) for widths in (encoder.mlp_dims, encoder.head_dims))
    )
    extracted = found.extract(subnet).eval()
    assert extracted.config.vision_config.layer_heads == [found.config.vision_config.layer_heads[i] for i in (0, 2, 3)]
    with torch.no_grad():
        assert torch.equal(extracted(**inputs).pred_masks, found(**inputs, subnet=subnet).pred_masks)
    with pytest.raises(ValueError, match="num_attention_heads"):
        found.to_sam()


def test_the_embedding_of_a_sam_keeps_its_width() -> None:
    with pytest.raises(ValueError, match="embedding_ratio"):
        MaskedModel(tiny_sam(), SearchSpace(), pmim=None)
    with pytest.raises(ValueError, match=r"`space\.embedding_ratio` must be null"):
        SamBiMaskArguments(space=SearchSpace())


def test_masked_image_modelling_is_refused() -> None:
    with pytest.raises(ValueError, match="`pmim` must be off"):
        MaskedModel(tiny_sam(), encoder_space(), pmim="before")


@pytest.mark.parametrize("budget", [{"max_params": 0.7}, {"max_macs": 0.5}])
def test_a_search_keeps_its_budget_and_leaves_what_it_does_not_search(
    budget: dict[str, float], shapes_loader: Any, tmp_path: Path
) -> None:
    model = tiny_sam()
    original, prompts = model.config, {k: v.clone() for k, v in model.prompt_encoder.state_dict().items()}
    args = SamBiMaskArguments(
        max_steps=6, search_steps=4, warmup_steps=0, prune_steps=2, save_steps=0, logging_steps=1, **budget
    )
    found, report = train_sam_bimask(model, shapes_loader(), args, tmp_path)
    kind = report["budget_kind"]
    counted = {"macs": count_macs(found.config), "params": count_parameters(found.config)}
    whole = {"macs": count_macs(original), "params": count_parameters(original)}
    assert counted[kind] == report[kind] <= report["budget"] == int(budget[f"max_{kind}"] * whole[kind])
    assert all(torch.equal(v, prompts[k]) for k, v in found.prompt_encoder.state_dict().items())
    assert found.config.search["architecture"] == architecture(found)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [set(line) >= {"loss_mask", "loss_budget"} for line in log[:4]] == [True] * 4
    assert "loss_budget" not in log[-1]


def test_a_budget_that_no_network_meets_is_told() -> None:
    shape = physical_shape(tiny_sam())
    assert {layer[:2] for layer in smallest_shape(shape, encoder_space()).layers} == {(48, 4)}
    with pytest.raises(ValueError, match="`max_params` of 0.01 .* cannot be met"):
        train_sam_bimask(tiny_sam(), None, SamBiMaskArguments(max_params=0.01), "nowhere")  # type: ignore[arg-type]


def test_the_verb_leaves_a_subnet_that_other_verbs_go_on_with(stock_folder: Path, tmp_path: Path) -> None:
    data = ["--data.source", "shapes", "--data.shapes_image_size", "64", "--data.shapes_train_images", "8"]
    data += ["--data.shapes_eval_images", "2", "--data.batch_size", "2", "--holdout_images", "2"]
    run = ["--output_dir", str(tmp_path / "run"), "--model.name", str(stock_folder), *data]
    steps = ["--bimask.max_steps", "4", "--bimask.search_steps", "3", "--bimask.eval_steps", "2"]
    assert main(["bimask", *run, *steps, "--bimask.warmup_steps", "0", "--bimask.max_params", "0.8"]) == 0
    report = json.loads((tmp_path / "run" / "bimask.json").read_text())
    found = SuperSamModel.from_pretrained(tmp_path / "run" / "subnet")
    assert count_parameters(found.config) == report["params"] <= report["budget"]
    log = [json.loads(line) for line in (tmp_path / "run" / "bimask" / "log.jsonl").read_text().splitlines()]
    assert [0 <= line["miou"] <= 1 for line in log if "miou" in line] == [True, True]
    told = publication(tmp_path / "run", "subnet").card
    assert "the network that a bi-mask search found" in told
    assert f"{report['params']:,}" in told
    assert f"| original | {report['original']['params']:,} |" in told
    assert "Trained on generated shapes: split `train`." in told
    assert "4 steps of 2 images" in told
    assert re.search(r"^\| bimask \|", told, re.MULTILINE)  # what it cost
    assert main(["finetune", *run, "--finetune.max_steps", "2", "--finetune.warmup_steps", "0"]) == 0
    other = ["--output_dir", str(tmp_path / "other"), "--model.name", str(tmp_path / "run" / "finetuned"), *data]
    assert main(["evaluate", *other]) == 0
    row = json.loads((tmp_path / "other" / "results.json").read_text())["rows"][0]
    assert row["params"] == report["params"]
    assert main(["bimask", *run, *steps, "--bimask.max_params", "0.01"]) == 2
    assert main(["bimask", *run, *steps, "--bimask.max_params", "0.01", "--dry_run"]) == 2
