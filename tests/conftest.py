"""Small random SAMs, ViTs and DeiTs, and where the real images and checkpoints lie."""

import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any


# MKL's products depend on where in memory a matrix lies, unless it is told that they must not. Before torch loads it.
os.environ.setdefault("MKL_CBWR", "AUTO")

import pytest  # noqa: E402
import torch
from filelock import FileLock
from huggingface_hub.utils import _http
from torch.utils.data import DataLoader
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    SamConfig,
    SamModel,
    ViTConfig,
    ViTForImageClassification,
)

from supersam_hf import SuperSamModel, SuperSamProcessor
from supersam_hf.data import DataArguments, PromptDataset, build_loader, shapes


if TYPE_CHECKING:
    from hub_server import HubServer


SHARED = Path(os.environ.get("SUPERSAM_HF_SHARED", Path(__file__).parents[1].parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason=f"no real images and checkpoints at {SHARED} (set SUPERSAM_HF_SHARED)")
    no_gpu = pytest.mark.skip(reason="no GPU")
    for item in items:
        if item.get_closest_marker("shared") and not (SHARED / "weights").is_dir():
            item.add_marker(missing)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)


@pytest.fixture(scope="session", autouse=True)
def impatient() -> Iterator[None]:
    """Without a network the Hub's client asks six times, and waits 23 seconds in all in between: here it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


def tiny_config(**vision: object) -> SamConfig:
    """64 px, a 4 x 4 grid, windows of 3 (which pad), 6 layers of width 48, heads of 16."""
    shape = {
        "hidden_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "mlp_dim": 192,
        "image_size": 64,
        "window_size": 3,
        "global_attn_indexes": [1, 4],
        "output_channels": 32,
        "num_pos_feats": 16,
        "initializer_range": 0.02,
        "scale": 1.0,
        **vision,
    }
    return SamConfig(
        vision_config=shape,
        prompt_encoder_config={"image_size": shape["image_size"], "hidden_size": 32},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32},
    )


def randomised(model: PreTrainedModel, seed: int = 0) -> Any:
    """Weights of ordinary size everywhere: a fresh SAM has zero relative positions and an all but zero decoder, a
    fresh DeiT zero positions and tokens."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if norm else 0.1 * noise)
    return model.eval()


@pytest.fixture(scope="session")
def stock() -> SamModel:
    return randomised(SamModel(tiny_config()))


def forget_remote_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was loaded from repositories, and the folders it came from: Python would look for other code in those."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "transformers_modules").exists()])
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture(scope="session")
def stock_folder(stock: SamModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stock_sam")
    stock.save_pretrained(folder)
    SuperSamProcessor.for_config(stock.config).save_pretrained(folder)
    return folder


@pytest.fixture
def supernet(stock_folder: Path) -> SuperSamModel:
    return SuperSamModel.from_pretrained(stock_folder).eval()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    boxes = [[[5.0, 6.0, 30.0, 40.0], [10.0, 20.0, 60.0, 50.0]]] * 2
    return {"pixel_values": torch.randn(2, 3, 64, 64, generator=generator), "input_boxes": torch.tensor(boxes)}


# 32 px, a 4 x 4 grid, 3 layers of width 48, heads of 16, 5 labels.
TINY_VIT: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
CLASSIFIERS = {
    "vit": (ViTConfig, ViTForImageClassification),
    "deit": (DeiTConfig, DeiTForImageClassification),
    "deit_two_heads": (DeiTConfig, DeiTForImageClassificationWithTeacher),
}


def tiny_classifier(kind: str, **config: Any) -> Any:
    """A stock classifier of random weights: "vit", "deit" or "deit_two_heads"."""
    config_class, model_class = CLASSIFIERS[kind]
    return randomised(model_class(config_class(**{**TINY_VIT, **config})))


@pytest.fixture(scope="session")
def classifier_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved stock classifiers by kind, each with the image processor its family has."""
    folders = {}
    for kind in CLASSIFIERS:
        folders[kind] = tmp_path_factory.mktemp(kind)
        tiny_classifier(kind).save_pretrained(folders[kind])
        processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
        if kind != "vit":
            processor = {
                "image_processor_type": "DeiTImageProcessor",
                "size": {"height": 36, "width": 36},
                "crop_size": {"height": 32, "width": 32},
            }
        (folders[kind] / "preprocessor_config.json").write_text(json.dumps(processor))
    return folders


@pytest.fixture(scope="session")
def vit_folder(classifier_folders: dict[str, Path]) -> Path:
    return classifier_folders["vit"]


@pytest.fixture(scope="session")
def deit_folder(classifier_folders: dict[str, Path]) -> Path:
    """A DeiT whose distillation token has no head, as `DeiTForImageClassification` saves it."""
    return classifier_folders["deit"]


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Runs a script in a fresh interpreter and returns what it prints; fails with its error output."""
    import subprocess
    import sys

    def run(script: str, *arguments: object, check: bool = True) -> str:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if check and done.returncode:
            raise AssertionError(f"exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    return run


@pytest.fixture
def shapes_loader() -> Callable[..., DataLoader]:
    """Prompted batches of a few generated 64 px scenes."""

    def make(num_images: int = 8, batch_size: int = 4, training: bool = True, **data: object) -> DataLoader:
        args = DataArguments(**{"box_padding": 3, "max_objects": 3, "min_area": 20, **data})
        processor = SuperSamProcessor.for_config(tiny_config())
        dataset = PromptDataset(
            shapes(num_images, image_size=64, seed=3), processor.image_processor, args, training=training
        )
        return build_loader(dataset, batch_size, seed=args.seed)

    return make


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of the workers of a session makes, and all read: nobody may change it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made_once" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not Path(f"{folder}.made").exists():
            make(folder)
            Path(f"{folder}.made").touch()
    return folder


@pytest.fixture(scope="session")
def supersam_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole SuperSAM run on generated shapes, a few steps a stage: copy it before changing it."""
    from test_pipeline import argv

    from supersam_hf_cli import main

    def make(folder: Path) -> None:
        assert main(argv(folder)) == 0

    return made_once(tmp_path_factory, "tiny-sam", make)


@pytest.fixture(scope="session")
def ofb_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole OFB run on generated shapes, a few steps a stage: copy it before changing it."""
    from test_ofb_pipeline import argv

    from supersam_hf_cli import main

    def make(folder: Path) -> None:
        assert main(argv(folder)) == 0

    return made_once(tmp_path_factory, "tiny-vit", make)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["HubServer"]:
    """A Hub on loopback, with the libraries of this process pointed at it, logged in with its write token.

    What they cache lies under the test's own folder. They retry as ever, but without waiting in between.
    """
    from hub_client import point_at
    from hub_server import HubServer

    with HubServer() as server:
        point_at(server, tmp_path / "hub_home", monkeypatch)
        yield server


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has torch, transformers and peft, but not this package.

    Where it is installed in this environment as editable, what makes it importable is a `.pth` file, and those of a
    folder that was itself added by one are not read.
    """
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    find = "import importlib.util as u; print(*[bool(u.find_spec(n)) for n in ('torch', 'supersam_hf')])"
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    found = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True, env=env, cwd=folder)
    assert found.stdout.split() == ["True", "False"]
    return str(python)
