"""What an export writes is right on every CPU, and a training ends the same on busy ones."""

import signal
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_classifier
from transformers import SamModel

from supersam_hf import OfbViTForImageClassification, SuperSamModel, SuperSamProcessor
from supersam_hf.evaluation import evaluate
from supersam_hf.training.errors import WorkerError, explained


pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from supersam_hf.deploy import OnnxSam, export_onnx, quantize_onnx  # noqa: E402
from supersam_hf.deploy.samples import SampleArguments, SamSamples  # noqa: E402


LARGEST_ACTIVATION, LARGEST_SUM = 255, 2**15 - 1


@pytest.fixture(scope="module")
def sam_folder(stock: SamModel, stock_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8_sam")
    quantize_onnx(export_onnx(SuperSamModel.from_pretrained(stock_folder).eval(), folder))
    return folder


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8_classifier")
    tiny_classifier("deit_two_heads").save_pretrained(folder / "stock")
    quantize_onnx(export_onnx(OfbViTForImageClassification.from_pretrained(folder / "stock").eval(), folder))
    return folder


def integer_weights(path: Path) -> list[np.ndarray]:
    """The weights (in, out) of a file's integer products, which must all be signed and without a zero point."""
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert not any(constants[node.input[3]].any() for node in products)
    return [constants[node.input[1]] for node in products]


@pytest.mark.parametrize("name", ["vision_encoder", "prompt_encoder_mask_decoder", "model"])
def test_no_cpus_int8_products_saturate(name: str, request: pytest.FixtureRequest) -> None:
    """AVX2's `vpmaddubsw` adds two neighbouring products in 16 bits, whichever weights are neighbours."""
    folder = request.getfixturevalue("classifier_folder" if name == "model" else "sam_folder")
    weights = integer_weights(folder / f"{name}_int8.onnx")
    assert weights
    for weight in weights:
        assert weight.dtype == np.int8
        assert 2 * LARGEST_ACTIVATION * int(np.abs(weight.astype(int)).max()) <= LARGEST_SUM
    # ... and as many of the values as that leaves are used.
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == 64


def test_a_deployed_sam_is_evaluated_as_its_original(stock_folder: Path, sam_folder: Path) -> None:
    model = SuperSamModel.from_pretrained(stock_folder).eval()
    samples = SamSamples(SampleArguments(max_eval_images=3), SuperSamProcessor.from_pretrained(stock_folder), model)
    wanted = evaluate(model, samples.loader, multimask=False).miou
    assert samples.quality(model) == pytest.approx(wanted, abs=1e-6)
    assert samples.quality(OnnxSam(sam_folder)) == pytest.approx(wanted, abs=1e-3)


def test_a_workers_death_is_not_told_again_in_the_midst_of_what_follows() -> None:
    """Its connection closes first; on a busy machine, the signal that torch's handler turns into an error comes when
    the first error is dealt with already."""
    heard = []

    def handler(number: int, frame: Any) -> None:
        heard.append(number)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    def late(*arguments: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        raise ConnectionResetError(104, "Connection reset by peer")

    # raised from the file that it would come from
    closed = compile("def get(late): late()", resource_sharer.__file__, "exec")
    names: dict[str, Any] = {}
    exec(closed, names)
    before = {number: signal.signal(number, handler) for number in (signal.SIGCHLD, signal.SIGALRM)}
    try:
        with pytest.raises(WorkerError, match="Connection reset by peer"), explained(lambda: " at step 7."):
            names["get"](late)
        assert heard == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, previous in before.items():
            signal.signal(number, previous)
