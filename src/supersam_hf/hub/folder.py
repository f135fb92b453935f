"""A model as a folder that anyone can load: config, safetensors, processor, code, model card, search record."""

import shutil
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, SamProcessor
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from ..files import read_json, write_json, written_aside
from ..models.classifiers import CLASSIFIER_CLASSES, SEGMENTER_CLASSES
from ..models.supersam import SuperSamImageProcessor, SuperSamModel, SuperSamProcessor
from .readme import plain_readme, signed
from .selection import FIGURES, WRITTEN, Kind


def _auto_map(kind: Any, auto_class: str) -> dict[str, str]:
    """Of a class, its backbone and its config."""
    model_type, name = kind.config_class.model_type, kind.__name__
    backbone = name.partition("For")[0] + "Model"
    return {
        "AutoConfig": f"configuration_{model_type}.{kind.config_class.__name__}",
        "AutoModel": f"modeling_{model_type}.{backbone}",
        auto_class: f"{kind.__module__.rpartition('.')[2]}.{name}",
    }


OF_IMAGES = (*CLASSIFIER_CLASSES, *SEGMENTER_CLASSES)
# What is published, by the name of its class: a model of remote code has the same name.
PUBLISHED: dict[str, Any] = {kind.__name__: kind for kind in (SuperSamModel, *OF_IMAGES)}
MODEL_TYPES = sorted({kind.config_class.model_type for kind in PUBLISHED.values()})
# Which class serves which Auto class, by the name of the class that is exported: what `trust_remote_code=True` reads.
# transformers' own `register_for_auto_class` keeps one only.
AUTO_MAPS = {
    "SuperSamModel": {
        "AutoConfig": "configuration_supersam.SuperSamConfig",
        "AutoModel": "modeling_supersam.SuperSamModel",
        "AutoModelForMaskGeneration": "modeling_supersam.SuperSamModel",
    },
    **{kind.__name__: _auto_map(kind, "AutoModelForImageClassification") for kind in CLASSIFIER_CLASSES},
    **{kind.__name__: _auto_map(kind, "AutoModelForSemanticSegmentation") for kind in SEGMENTER_CLASSES},
}
PROCESSOR_AUTO_MAP = {
    "AutoProcessor": "image_processing_supersam.SuperSamProcessor",
    "AutoImageProcessor": "image_processing_supersam.SuperSamImageProcessor",
}
CODE = ("attention", "configuration", "modeling", "segmentation")
# What exports of each kind may hold at the top: what an earlier one left is replaced. Anything else is the owner's.
OURS: dict[Kind, tuple[str, ...]] = {
    **WRITTEN,
    "model": (
        *WRITTEN["model"],
        *("attention_supersam.py", "configuration_supersam.py", "elastic_supersam.py", "extraction_supersam.py"),
        *("image_processing_supersam.py", "layers_supersam.py", "modeling_supersam.py", "pareto_supersam.py"),
        "rgb_supersam.py",
        *(f"{part}_{kind.config_class.model_type}.py" for kind in OF_IMAGES for part in CODE),
    ),
}


def export(
    model: Any,
    folder: str | Path,
    *,
    processor: Any = None,
    card: str | None = None,
    search: dict[str, Any] | None = None,
    pareto: dict[str, Any] | None = None,
    figures: Mapping[str, str | Path] | None = None,
    stock: bool = False,
    max_shard_size: int | str = "5GB",
    repo_id: str | None = None,
    revision: str | None = None,
) -> Path:
    """Writes a folder that loads with this package, and with `trust_remote_code=True` where it is not installed.

    It is written aside and then renamed: whole, or not there.

    Args:
        model (`SuperSamModel`, `OfbViTForImageClassification` or alike): A supernet, a subnet, a found or fine-tuned
            model; also one that was itself loaded with `trust_remote_code=True`.
        folder (`str` or `Path`): Where to. A model folder that lies there is replaced, if it holds nothing
            else.
        processor (*optional*): Of a SAM: any SAM processor; the one for the model's input size if left out. Of a
            classifier or segmenter: the image processor that it was trained with, which must be given.
        card (`str`, *optional*): The model card, README.md; a short one if left out.
        search (`dict`, *optional*): How the model was found, `search.json`.
        pareto (`dict`, *optional*): A supernet's Pareto front, `pareto.json`, whose points can be loaded by name.
        figures (`dict[str, Path]`, *optional*): Image files by the name that the card gives them.
        stock (`bool`): Write a SAM whose layers are equally wide as a plain `transformers.SamModel`, without code.
        max_shard_size (`int` or `str`): Weights beyond this are split over several files.
        repo_id, revision (`str`, *optional*): What the short card's snippet loads; the folder itself if left out.

    Returns:
        `Path`: The folder.

    Raises:
        TypeError: If `model` is no model of transformers'.
        ValueError: For any other model, a classifier or segmenter without its image processor, `stock` of a model that
            stock SAM cannot hold, a figure that is no image file, or a folder that holds something else.
    """
    folder = Path(folder)
    check_model(model)
    _check_processor(model, processor)
    _check_figures(figures or {})
    check_replaceable(folder)
    if stock:
        model = _stock_model(model)
    with written_aside(folder) as aside:
        _write_model(model, aside, max_shard_size)
        _write_processor(model, processor, aside)
        (aside / "README.md").write_text(signed(card or plain_readme(model, repo_id, revision)), encoding="utf-8")
        for name, data in (("search.json", search), ("pareto.json", pareto)):
            if data is not None:
                write_json(aside / name, data)
        for name, path in (figures or {}).items():
            shutil.copyfile(path, aside / name)
        check_replaceable(folder)  # still
    return folder


def published_class(config: Mapping[str, Any]) -> str | None:
    """Which of [`PUBLISHED`] a config.json is of; None if of another."""
    names = [name for name in config.get("architectures") or () if name in PUBLISHED]
    return names[0] if names and config.get("model_type") in MODEL_TYPES else None


def check_model(model: Any) -> None:
    """`TypeError` or `ValueError` for a model that cannot be exported."""
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"`model` must be one of {sorted(PUBLISHED)}, got a {name}.")
    if name not in PUBLISHED or model.config.model_type != PUBLISHED[name].config_class.model_type:
        raise ValueError(f"`model` must be one of {sorted(PUBLISHED)}, got a {name}.")
    if any(".base_layer." in key for key in model.state_dict()):
        raise ValueError(
            "`model` carries an adapter (peft), which would be saved under names that no model loads: merge it with "
            "`merge_and_unload()`, or push the adapter's own folder."
        )


def check_replaceable(folder: Path) -> None:
    """`ValueError` where something else than a model folder lies, or something beside the model."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(f"`folder` {folder} is the current directory or holds it: give a folder inside it.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    config = folder / "config.json"
    model_type = read_json(config).get("model_type") if config.is_file() else None
    if model_type not in (*MODEL_TYPES, "sam"):
        raise ValueError(
            f"`folder` {folder} holds something else than a model (no config.json of type {[*MODEL_TYPES, 'sam']}) "
            "and is left as it is: give an empty or a new folder."
        )
    others = sorted(path.name for path in folder.iterdir() if not _is_ours(path))
    if others:
        raise ValueError(
            f"`folder` {folder} holds {others} beside a model and is left as it is: give an empty or a new folder."
        )


def is_ours(name: str, kind: Kind = "model") -> bool:
    """Whether an export writes files of this name, beside its card and figures."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in OURS[kind])


def _is_ours(path: Path) -> bool:
    return path.is_file() and (path.name == "README.md" or path.suffix in FIGURES or is_ours(path.name))


def _check_processor(model: Any, processor: Any) -> None:
    if processor is None and type(model).__name__ != "SuperSamModel":
        raise ValueError(
            "`processor` must be given for a classifier or segmenter: the image processor that it was trained with, "
            "for example `AutoImageProcessor.from_pretrained(...)` of the folder it came from."
        )


def _check_figures(figures: Mapping[str, str | Path]) -> None:
    for name, path in figures.items():
        if Path(name).suffix not in FIGURES or Path(name).name != name:
            raise ValueError(f"`figures` are named as image files ({', '.join(FIGURES)}), got {name!r}.")
        if not Path(path).is_file():
            raise ValueError(f"`figures` has {name!r} at {path}, where there is no file.")


def _stock_model(model: Any) -> Any:
    if type(model).__name__ != "SuperSamModel":
        raise ValueError("`stock` writes a SAM as `transformers.SamModel`; no other model can be written so.")
    return model.to_sam()


def _write_model(model: Any, folder: Path, max_shard_size: int | str) -> None:
    """Config, weights and, unless transformers itself has the class, the code: the model's own file and its siblings,
    flat, as they were loaded."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    name = type(model).__name__
    if name in AUTO_MAPS:
        _update_json(folder / "config.json", {"auto_map": AUTO_MAPS[name]})
        _copy_code(type(model), folder)


def _write_processor(model: Any, processor: Any, folder: Path) -> None:
    if model.config.model_type not in ("supersam", "sam"):
        processor.save_pretrained(folder)
        return
    if processor is None:
        processor = SuperSamProcessor.for_config(model.config)
    fields = processor.image_processor.to_dict()
    for key in ("image_processor_type", "processor_class", "auto_map"):
        fields.pop(key, None)
    if model.config.model_type == "sam":
        SamProcessor(SamImageProcessorPil(**fields)).save_pretrained(folder)
        return
    if type(processor).__name__ != "SuperSamProcessor":
        processor = SuperSamProcessor(SuperSamImageProcessor(**fields))
    processor.save_pretrained(folder)
    # AutoImageProcessor reads the inner part, AutoProcessor the whole
    path = folder / "processor_config.json"
    inner = read_json(path)["image_processor"]
    _update_json(path, {"auto_map": PROCESSOR_AUTO_MAP, "image_processor": {**inner, "auto_map": PROCESSOR_AUTO_MAP}})
    _copy_code(type(processor), folder)


def _copy_code(owner: type, folder: Path) -> None:
    file = sys.modules[owner.__module__].__file__
    assert file is not None
    for source in (file, *get_relative_import_files(file)):
        shutil.copyfile(source, folder / Path(source).name)


def _update_json(path: Path, values: dict[str, Any]) -> None:
    write_json(path, {**read_json(path), **values})
