"""The model that is deployed, and its processor."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, PreTrainedConfig

from ..files import read_json
from ..models.classifiers import CLASSIFIERS
from ..models.supersam import Subnet, SuperSamModel, SuperSamProcessor


SAMS = ("sam", "supersam")


def load_model(name: str, subnet: str | None = None, revision: str | None = None) -> tuple[Any, Any]:
    """A model in fp32 and its processor.

    Args:
        name (`str`): Folder or repository of a SAM (supernet, subnet, stock) or of a ViT, DeiT or Swin classifier.
        subnet (`str`, *optional*): Of a supernet: `largest`, `smallest`, `pareto-N`, or a JSON file of a subnet. Left
            out: the model as it is.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        ValueError: For a model of another kind, a subnet of a classifier, or one that is not there.
    """
    hub: dict[str, Any] = {} if revision is None else {"revision": revision}
    kind = PreTrainedConfig.get_config_dict(name, **hub)[0].get("model_type")
    if kind in SAMS:
        chosen: Any = subnet
        if subnet is not None and subnet.endswith(".json"):
            chosen = Subnet.from_dict(read_json(Path(subnet)))
        model = SuperSamModel.from_pretrained(name, subnet=chosen, dtype=torch.float32, **hub).eval()
        return model, SuperSamProcessor.for_config(model.config)
    if kind not in CLASSIFIERS:
        raise ValueError(f"`{name}` is a {kind!r}; it may be one of {[*SAMS, *CLASSIFIERS]}.")
    if subnet is not None:
        raise ValueError("`--subnet` picks from a SAM supernet; a classifier is exported as it is.")
    classifier = CLASSIFIERS[kind].from_pretrained(name, dtype=torch.float32, **hub).eval()
    return classifier, AutoImageProcessor.from_pretrained(name, trust_remote_code=False, **hub)
