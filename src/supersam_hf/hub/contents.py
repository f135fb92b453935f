"""What is pushed: a folder as it is, or one exported from a model on the way."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..files import write_json
from ..models.ofb_vit import OfbViTForImageClassification
from ..models.supersam import SuperSamModel, SuperSamProcessor
from .folder import AUTO_MAPS, export


Kind = Literal["model", "adapter"]

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Pickle runs code when it is loaded: none is published.
UNSAFE = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")


def prepared(model_or_folder: Any, scratch: Path, options: Mapping[str, Any]) -> Path:
    """The folder to push: exported to `scratch`, or the one given where it is complete as it lies.

    Args:
        model_or_folder: A model, or the folder of a model or an adapter.
        scratch (`Path`): Where to export to, if need be.
        options (`dict`): Of [`export`].

    Raises:
        ValueError: For a folder without a model, or options for one that is not exported.
        FileNotFoundError: If there is no such folder.
    """
    if not isinstance(model_or_folder, (str, Path)):
        return export(model_or_folder, scratch, **options)
    folder = Path(model_or_folder)
    if folder_kind(folder) == "adapter" and set(options) <= {"card"}:
        return _adapter(folder, scratch, options.get("card"))
    if folder_kind(folder) == "model":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") in AUTO_MAPS and (options or not _has_code(folder, config)):
            return _exported_again(folder, config["model_type"], scratch, options)
    if options:
        raise ValueError(
            f"{sorted(options)} do not go with {folder}, which is pushed as it is; an adapter takes `card`."
        )
    return folder


def folder_kind(folder: Path) -> Kind:
    """Whether a folder holds a model or a peft adapter.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds neither, naming what was looked for.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if all((folder / name).is_file() for name in ADAPTER):
        return "adapter"
    if (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS):
        return "model"
    raise ValueError(
        f"{folder} holds no model (config.json with {' or '.join(WEIGHTS)}) and no adapter ({' with '.join(ADAPTER)})."
    )


def files_of(folder: Path) -> dict[str, Path]:
    """The files to publish by their path in the repository; hidden ones and caches stay.

    Raises:
        ValueError: If some of them may be pickles.
    """
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {
        name.as_posix(): path
        for name, path in paths.items()
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    }
    unsafe = [name for name in files if Path(name).suffix in UNSAFE]
    if unsafe:
        raise ValueError(f"{folder} holds {unsafe}, which may be pickles: only safetensors are published.")
    return files


def _adapter(folder: Path, scratch: Path, card: str | None) -> Path:
    """The adapter with its card. A base that is a folder of this computer says nothing to others and is left out."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    local = base is not None and (Path(base).is_absolute() or Path(base).exists() or base.count("/") > 1)
    if card is None and not local:
        return folder
    shutil.copytree(folder, scratch)
    if local:
        write_json(scratch / "adapter_config.json", {**config, "base_model_name_or_path": None})
    if card is not None:
        (scratch / "README.md").write_text(card, encoding="utf-8")
    return scratch


def _has_code(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the code that the config names lies beside it. A model that was loaded from the Hub and saved names the
    code of the repository that it came from."""
    auto_map = AUTO_MAPS[config["model_type"]]
    modules = {reference.split(".")[0] for reference in auto_map.values()}
    return config.get("auto_map") == auto_map and all((folder / f"{module}.py").is_file() for module in modules)


def _exported_again(folder: Path, model_type: str, scratch: Path, options: Mapping[str, Any]) -> Path:
    """A model folder of ours as an export, with the card, the records and the figures that lie there."""
    found: dict[str, Any] = {"figures": {path.name: path for path in folder.glob("*.png")}}
    for name in ("search", "pareto"):
        if (folder / f"{name}.json").is_file():
            found[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if (folder / "README.md").is_file() and not options.get("stock"):
        found["card"] = (folder / "README.md").read_text(encoding="utf-8")
    if model_type == "supersam":
        model, processor = SuperSamModel.from_pretrained(folder), _sam_processor(folder)
    else:
        model = OfbViTForImageClassification.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
    return export(model, scratch, **{"processor": processor, **found, **options})


def _sam_processor(folder: Path) -> SuperSamProcessor | None:
    if (folder / "processor_config.json").is_file() or (folder / "preprocessor_config.json").is_file():
        return SuperSamProcessor.from_pretrained(folder)
    return None
