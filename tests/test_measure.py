"""Measurements against things whose duration, memory and size are known beforehand."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import TINY_VIT, tiny_classifier
from torch.utils.flop_counter import FlopCounterMode
from transformers import SamConfig, SamModel

from supersam_hf import OfbViTConfig, OfbViTForImageClassification
from supersam_hf.elastic.cost import count_macs
from supersam_hf.measure import compare_latency, hardware, measure_latency, measure_model, measure_peak_memory
from supersam_hf.measure.model import example_inputs
from supersam_hf.models.supersam import Subnet, SuperSamConfig, SuperSamModel


class Clock:
    """Stands still but for what [`Busy`] takes: on a real one a busy machine's other work is in every time."""

    now = 0.0


class Busy:
    """Takes each of the given milliseconds in turn."""

    def __init__(self, clock: Clock, *milliseconds: float) -> None:
        self.clock, self.milliseconds, self.calls = clock, milliseconds, 0

    def __call__(self) -> None:
        self.clock.now += self.milliseconds[self.calls] / 1e3
        self.calls += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def sam_config(image_size: int = 32, **vision: Any) -> dict[str, Any]:
    vision = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "window_size": 2} | vision
    vision |= {"image_size": image_size, "patch_size": 8, "num_pos_feats": 8, "output_channels": 16}
    return {
        "vision_config": vision | {"global_attn_indexes": [1]},
        "prompt_encoder_config": {"image_size": image_size, "patch_size": 8, "hidden_size": 16},
        "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2},
    }


@pytest.fixture
def supernet() -> SuperSamModel:
    return SuperSamModel(SuperSamConfig(**sam_config()))


def test_latency_is_the_time_taken_and_leaves_the_warmup_out(clock: Clock) -> None:
    forward = Busy(clock, 30, 30, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    latency = measure_latency(forward, warmup=2, repeats=9)
    assert forward.calls == 11
    assert latency.repeats == 9
    found = (latency.min_ms, latency.p10_ms, latency.median_ms, latency.p90_ms)
    assert found == pytest.approx((1, 1.8, 5, 8.2))


def test_ratios_are_those_of_the_same_round_however_the_machine_drifts(clock: Clock) -> None:
    drift = [1, 5, 1, 5, 1, 5, 1, 5, 1, 5]
    forwards = {name: Busy(clock, *(t * d for d in drift)) for name, t in (("one", 1), ("two", 2), ("half", 0.5))}
    compared = compare_latency(forwards, rounds=10, warmup=0)
    assert list(compared) == ["one", "two", "half"]
    for name, ratio in (("one", 1), ("two", 2), ("half", 0.5)):
        found = compared[name]
        assert (found.ratio, found.ratio_p10, found.ratio_p90) == pytest.approx((ratio,) * 3)
    assert compared["two"].latency.repeats == 10


def test_rounds_take_turns_in_who_goes_first() -> None:
    order: list[str] = []

    def call(name: str) -> Callable[[], None]:
        return lambda: order.append(name)

    compare_latency({name: call(name) for name in "abc"}, rounds=3, warmup=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup": -1}, "`warmup` must be 0 or more"),
        ({"repeats": 0}, "`repeats` must be 1 or more"),
        ({"device": "meta"}, "`device` must be cpu, cuda or mps"),
    ],
)
def test_bad_timing_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_latency(lambda: pytest.fail("ran"), **arguments)
    with pytest.raises(ValueError, match="`forwards` is empty"):
        compare_latency({})


def test_hardware_names_this_machine_in_plain_data() -> None:
    found = hardware()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert found["device"]


@pytest.mark.skipif(platform.system() != "Linux", reason="nproc is on Linux")
def test_cores_are_those_this_process_may_use() -> None:
    # nproc heeds OpenMP's variables, which are about threads
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    assert hardware()["cores"] == int(subprocess.check_output(["nproc"], env=environment))


def test_a_measurement_says_what_was_measured_and_leaves_the_model_alone(supernet: SuperSamModel) -> None:
    supernet.train()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    measured = measure_model(supernet, batch_size=2, num_prompts=3, warmup=0, repeats=2, memory=False)
    assert measured.parameters == sum(p.numel() for p in supernet.parameters())
    assert measured.weight_bytes == sum(p.numel() * p.element_size() for p in supernet.parameters())
    assert measured.macs == count_macs(supernet.config, num_prompts=3)
    assert measured.images_per_second == pytest.approx(2000 / measured.latency.median_ms)
    assert (measured.batch_size, measured.num_prompts, measured.image_size) == (2, 3, 32)
    assert measured.peak_memory_bytes is None
    assert json.loads(json.dumps(measured.to_dict()))["hardware"] == hardware()
    assert supernet.training
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_a_subnet_is_measured_as_the_size_it_would_be_extracted_at(supernet: SuperSamModel) -> None:
    subnet = Subnet((1,), (12,), (4,))
    quick: dict[str, Any] = {"warmup": 0, "repeats": 1, "memory": False}
    inside, extracted = (
        measure_model(supernet, subnet=subnet, **quick),
        measure_model(supernet.extract(subnet), **quick),
    )
    assert (inside.parameters, inside.macs) == (extracted.parameters, extracted.macs)
    assert inside.parameters < measure_model(supernet, **quick).parameters


def test_another_dtype_or_size_is_measured_on_a_copy(supernet: SuperSamModel) -> None:
    quick: dict[str, Any] = {"warmup": 0, "repeats": 1, "memory": False}
    measured = measure_model(supernet, dtype=torch.bfloat16, image_size=64, **quick)
    assert (measured.dtype, measured.image_size) == ("bfloat16", 64)
    assert measured.weight_bytes == 2 * measured.parameters
    assert supernet.dtype == torch.float32
    assert supernet.config.vision_config.image_size == 32


def test_bad_measurements_are_refused_before_anything_runs(supernet: SuperSamModel) -> None:
    stock, subnet = SamModel(SamConfig(**sam_config())), Subnet((0,), (12,), (4,))
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more, got 0"):
        measure_model(supernet, batch_size=0)
    with pytest.raises(ValueError, match="`mlp_dim` of layer 0 is 65"):
        measure_model(supernet, subnet=Subnet((0,), (65,), (4,)))
    with pytest.raises(ValueError, match="stock SamModel runs no `subnet`"):
        measure_model(stock, subnet=subnet)
    with pytest.raises(ValueError, match="`image_size` of a SamModel is its own, 32, got 64"):
        measure_model(stock, image_size=64)


def test_peak_memory_on_the_cpu_holds_the_attention_matrices_and_not_what_this_process_holds() -> None:
    # one head over 32 x 32 tokens at 16 images: logits, relative positions and their sum are alive together
    images, heads, tokens = 16, 1, 32 * 32
    matrix = 4 * images * heads * tokens**2
    vision = {"num_attention_heads": heads, "num_hidden_layers": 1, "window_size": 0}
    config = SuperSamConfig(**sam_config(image_size=256, **vision))
    model = SuperSamModel._from_config(config, attn_implementation="eager")
    ballast = torch.ones(8 * matrix // 4)
    peak = measure_peak_memory(model, example_inputs(model, batch_size=images))
    assert 3 * matrix <= peak < 5 * matrix < 4 * ballast.numel()


def test_peak_memory_of_a_model_no_other_process_can_build_is_refused() -> None:
    script_model = type("ScriptModel", (SamModel,), {"__module__": "__main__"})(SamConfig(**sam_config()))
    with pytest.raises(ValueError, match="cannot build a ScriptModel defined in a script"):
        measure_peak_memory(script_model, example_inputs(script_model))


@pytest.mark.parametrize("kind", ["ours", "vit", "deit", "deit_two_heads"])
def test_a_classifier_is_measured_on_images_alone(kind: str) -> None:
    stock = tiny_classifier("vit" if kind == "ours" else kind)
    model = OfbViTForImageClassification(OfbViTConfig(**TINY_VIT)).train() if kind == "ours" else stock
    assert list(example_inputs(model, batch_size=3)) == ["pixel_values"]
    measured = measure_model(model, batch_size=3, warmup=0, repeats=2, memory=kind == "deit_two_heads")
    assert measured.parameters == sum(p.numel() for p in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.set_attn_implementation("eager")
        model(torch.zeros(1, 3, 32, 32))
    assert measured.macs == counter.get_total_flops() // 2
    assert measured.images_per_second == pytest.approx(3000 / measured.latency.median_ms)
    assert (measured.batch_size, measured.num_prompts, measured.image_size) == (3, 0, 32)
    assert measured.peak_memory_bytes is None or measured.peak_memory_bytes > 0
    assert model.training == (kind == "ours")


def test_a_classifier_is_measured_at_another_size_and_refuses_what_is_sams() -> None:
    ours, stock = OfbViTForImageClassification(OfbViTConfig(**TINY_VIT)), tiny_classifier("vit")
    measured = measure_model(ours, image_size=64, dtype=torch.bfloat16, warmup=0, repeats=1, memory=False)
    assert (measured.image_size, measured.dtype) == (64, "bfloat16")
    assert measured.macs == count_macs(ours.resized(64).config) > count_macs(ours.config)
    with pytest.raises(ValueError, match="`image_size` of a ViTForImageClassification is its own, 32, got 64"):
        measure_model(stock, image_size=64)
    for unfit in ({"num_prompts": 2}, {"subnet": Subnet((0,), (12,), (4,))}):
        with pytest.raises(ValueError, match="a classifier takes images alone"):
            measure_model(ours, **unfit)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_peak_memory_on_cuda_holds_the_attention_matrices() -> None:
    images, tokens = 16, 32 * 32
    matrix = 4 * images * tokens**2
    vision = {"num_attention_heads": 1, "num_hidden_layers": 1, "window_size": 0}
    config = SuperSamConfig(**sam_config(image_size=256, **vision))
    model = SuperSamModel._from_config(config, attn_implementation="eager").cuda()
    measured = measure_model(model, batch_size=images)
    assert 3 * matrix <= measured.peak_memory_bytes < 6 * matrix
    assert measured.hardware["device"] == torch.cuda.get_device_name()
