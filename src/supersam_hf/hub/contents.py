"""What is pushed: a folder as it is, or one exported from a model on the way."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from ..files import check_empty, read_json, write_json
from ..models.supersam import SuperSamProcessor
from .folder import AUTO_MAPS, OURS, PROCESSOR_AUTO_MAP, PUBLISHED, export, published_class
from .readme import adapter_readme
from .selection import FIGURES, INDEX, Kind, included, left_out, selected


logger = logging.getLogger(__name__)

WEIGHTS = ("model.safetensors", INDEX)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# What peft's own card holds in each place that nobody has filled in.
UNFILLED = "[More Information Needed]"


@dataclass(frozen=True)
class Contents:
    """What is pushed.

    Args:
        folder (`Path`): Of the model or adapter, as it is published.
        files (`dict[str, Path]`): What is sent, by its path in the repository.
        left_out (`list[str]`): What stays of the folder that was named.
    """

    folder: Path
    files: dict[str, Path]
    left_out: list[str]


def contents(
    model_or_folder: Any,
    scratch: Path,
    options: Mapping[str, Any],
    where: Mapping[str, str | None] | None = None,
    *,
    source: Path | None = None,
    include: Sequence[str] = (),
) -> Contents:
    """What to push of a model, or of the folder of a model or an adapter.

    Args:
        model_or_folder, scratch, options, where: See [`prepared`].
        source (`Path`, *optional*): The folder that was named: `model_or_folder`, or the run that it came from.
        include (`list[str]`): Files of `source` that are sent as well.

    Raises:
        ValueError: As [`prepared`] does, and for what `include` may not name.
        FileNotFoundError: If there is no such folder.
    """
    if isinstance(model_or_folder, (str, Path)):
        source = source or Path(model_or_folder)
    if source is None and include:
        raise ValueError("`include` names files of a folder; a model has none. Give the folder.")
    more = {} if source is None else included(source, include)
    folder = prepared(model_or_folder, scratch, options, where)
    if folder == scratch:  # it was written just now
        files = {path.name: path for path in sorted(scratch.iterdir())}
    else:
        files = selected(folder, OURS[folder_kind(folder)])
    files |= {name: path for name, path in more.items() if name not in files}
    return Contents(folder, files, [] if source is None else left_out(source, files))


def is_hub_id(name: str, roots: Iterable[Path] = (Path(),)) -> bool:
    """Whether a name that models and datasets are loaded by is a repository's, `namespace/name`, and no local path.

    Args:
        name (`str`): Hub id or path.
        roots (`list[Path]`): Folders that a relative path may have been meant from: what exists there is local.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    if name.count("/") != 1 or name.startswith(("~", ".")):
        return False
    return not any((root / name).exists() for root in roots)


def prepared(
    model_or_folder: Any, scratch: Path, options: Mapping[str, Any], where: Mapping[str, str | None] | None = None
) -> Path:
    """The folder to push: exported to `scratch`, or the one given where it is complete as it lies.

    Args:
        model_or_folder: A model, or the folder of a model or an adapter.
        scratch (`Path`): Where to export to, if need be.
        options (`dict`): Of [`export`].
        where (`dict`, *optional*): `repo_id` and `revision` of [`export`], for what is exported.

    Raises:
        ValueError: For a folder without a model, or options for one that is not exported.
        FileNotFoundError: If there is no such folder.
    """
    if not isinstance(model_or_folder, (str, Path)):
        return export(model_or_folder, scratch, **{**(where or {}), **options})
    folder = Path(model_or_folder)
    selected(folder, OURS[folder_kind(folder)])  # before anything is read: no link may lead elsewhere
    if folder_kind(folder) == "adapter" and set(options) <= {"card"}:
        return _adapter(folder, scratch, options.get("card"))
    if folder_kind(folder) == "model":
        config = read_json(folder / "config.json")
        name = published_class(config)
        if name is not None and (options or not _has_code(folder, config, name)):
            return _exported_again(folder, name, scratch, {**(where or {}), **options})
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


def _adapter(folder: Path, scratch: Path, card: str | None) -> Path:
    """The adapter with its card. A base that is a folder of this computer says nothing to others and is left out, of
    the config as of a card that names it; so is peft's own card that nobody has filled in."""
    config = read_json(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    local = base is not None and not is_hub_id(base)
    rewritten = card is None and _is_unfit(folder / "README.md", base if local else None)
    if card is None and not local and not rewritten:
        return folder
    check_empty(scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    for name, path in selected(folder, OURS["adapter"]).items():
        shutil.copyfile(path, scratch / name)
    if local:
        write_json(scratch / "adapter_config.json", {**config, "base_model_name_or_path": None, "revision": None})
    if card is not None:
        (scratch / "README.md").write_text(card, encoding="utf-8")
    elif rewritten:
        logger.warning(
            f"{folder}/README.md is peft's unfilled card or names a folder of this computer: it is not published, its "
            "metadata is. Give `card`, or write one."
        )
        (scratch / "README.md").write_text(adapter_readme(scratch), encoding="utf-8")
    return scratch


def _is_unfit(readme: Path, base: str | None) -> bool:
    """Whether a card is peft's template as it was, or tells of the local `base`."""
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8")
    return UNFILLED in text or (base is not None and base in text)


def _has_code(folder: Path, config: dict[str, Any], name: str) -> bool:
    """Whether all the code that the config names lies beside it, with what it imports. A model that was loaded from
    the Hub and saved names the code of the repository that it came from."""
    auto_map = AUTO_MAPS[name]
    if config.get("auto_map") != auto_map:
        return False
    references = {*auto_map.values(), *(PROCESSOR_AUTO_MAP.values() if name == "SuperSamModel" else ())}
    files = [folder / f"{module}.py" for module in {reference.split(".")[0] for reference in references}]
    try:
        imported = [Path(str(name)) for file in files for name in get_relative_import_files(file)]
    except FileNotFoundError:  # it reads the files, one after the other
        return False
    return all(file.is_file() for file in (*files, *imported))


def _exported_again(folder: Path, name: str, scratch: Path, options: Mapping[str, Any]) -> Path:
    """A model folder of ours as an export, with the card, the records and the figures that lie there."""
    files = selected(folder, OURS["model"])
    found: dict[str, Any] = {"figures": {name: path for name, path in files.items() if path.suffix in FIGURES}}
    for record in ("search", "pareto"):
        if f"{record}.json" in files:
            found[record] = read_json(folder / f"{record}.json")
    if (folder / "README.md").is_file() and not options.get("stock"):
        found["card"] = (folder / "README.md").read_text(encoding="utf-8")
    model = PUBLISHED[name].from_pretrained(folder)
    sam = name == "SuperSamModel"
    processor = _sam_processor(folder) if sam else AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    return export(model, scratch, **{"processor": processor, **found, **options})


def _sam_processor(folder: Path) -> SuperSamProcessor | None:
    if (folder / "processor_config.json").is_file() or (folder / "preprocessor_config.json").is_file():
        return SuperSamProcessor.from_pretrained(folder)
    return None
