"""The families of classifiers and segmenters: which class loads a checkpoint of which type. To add one, list its
package here."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
)

from . import ofb_swin, ofb_vit


PACKAGES: tuple[Any, ...] = (ofb_vit, ofb_swin)
# By the `model_type` of a checkpoint: stock ones, and those of our own.
CLASSIFIERS: dict[str, Any] = {
    model_type: package.CLASSIFIER
    for package in PACKAGES
    for model_type in (*package.STOCK_TYPES, package.CLASSIFIER.config_class.model_type)
}
CLASSIFIER_CLASSES: tuple[Any, ...] = tuple(package.CLASSIFIER for package in PACKAGES)
# Not every family has one.
SEGMENTER_CLASSES: tuple[Any, ...] = tuple(package.SEGMENTER for package in PACKAGES if hasattr(package, "SEGMENTER"))


def register_auto_classes() -> None:
    """Makes transformers' Auto classes know every family."""
    for package in PACKAGES:
        config = package.CLASSIFIER.config_class
        AutoConfig.register(config.model_type, config)
        AutoModel.register(config, package.BACKBONE)
        AutoModelForImageClassification.register(config, package.CLASSIFIER)
        AutoImageProcessor.register(config, image_processor_classes={"pil": package.PROCESSOR})
    for segmenter in SEGMENTER_CLASSES:
        AutoModelForSemanticSegmentation.register(segmenter.config_class, segmenter)


def classifier_class(name: str | Path, **hub: Any) -> Any:
    """The class that loads a checkpoint.

    Args:
        name (`str` or `Path`): Repository or folder.
        hub (`Any`): As `revision`, for where it lies.

    Raises:
        ValueError: If it holds no classifier of any family.
    """
    model_type = PreTrainedConfig.get_config_dict(name, **hub)[0].get("model_type")
    if model_type not in CLASSIFIERS:
        raise ValueError(f"`{name}` holds a model of type {model_type!r}; it may be one of {list(CLASSIFIERS)}.")
    return CLASSIFIERS[model_type]


def load_classifier(name: str | Path, *, revision: str | None = None, **kwargs: Any) -> Any:
    """A classifier of any family, from the Hub or a folder; `kwargs` go to its `from_pretrained`.

    Raises:
        ValueError: If it holds no classifier of any family.
    """
    hub = {} if revision is None else {"revision": revision}
    return classifier_class(name, **hub).from_pretrained(name, **hub, **kwargs)


__all__ = [
    "CLASSIFIERS",
    "CLASSIFIER_CLASSES",
    "PACKAGES",
    "SEGMENTER_CLASSES",
    "classifier_class",
    "load_classifier",
    "register_auto_classes",
]
