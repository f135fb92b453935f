"""Whether a checkpoint is of the kind that a verb takes, told from its config alone."""

from transformers import PreTrainedConfig

from ..models.classifiers import CLASSIFIERS, SEGMENTER_CLASSES
from ..models.ofb_vit import STOCK_TYPES
from ..recipe import check_model_folder
from .preflight import Problems


SAMS = ("sam", "supersam")
BACKBONES = (*STOCK_TYPES, *(segmenter.config_class.model_type for segmenter in SEGMENTER_CLASSES))
# Relatives of SAM with encoders of their own, by the beginning of their `model_type`; the first that fits.
RELATIVES = {"sam2": "SAM 2", "sam3": "SAM 3", "sam_hq": "SAM-HQ", "edgetam": "EdgeTAM"}
# Verbs of both methods.
OFB_TOO = ("run", "search", "finetune", "evaluate", "measure", "extract")
SAM_EXAMPLES = "facebook/sam-vit-base, -large, -huge, or a model trained from them"


def model_type(field: str, name: str | None, revision: str | None, problems: Problems) -> str | None:
    """The `model_type` of a checkpoint here or on the Hub; None, and a problem, where it has none."""
    with problems.of(field):
        check_model_folder(name, field)
        hub = {} if revision is None else {"revision": revision}
        values = PreTrainedConfig.get_config_dict(str(name), **hub)[0]
        if not values:
            raise ValueError(f"{name!r} has no config.json: it is neither a folder of a model nor one on the Hub.")
        found = values.get("model_type")
        if found is None:
            raise ValueError(f"config.json of {name!r} names no `model_type`: it is no model of transformers.")
        return str(found)
    return None


def check_sam(found: str, verb: str, problems: Problems) -> bool:
    """Whether a `model_type` is that of a SAM; a problem where it is not."""
    if found in SAMS:
        return True
    other = ""
    if found in CLASSIFIERS:
        other = f" Classifiers go to `supersam-hf ofb {verb if verb in OFB_TOO else 'run'}`."
    problems.add("model.name", f"{_called(found)}; `{verb}` takes a SAM ({SAM_EXAMPLES}).{other}")
    return False


def check_classifier(found: str, verb: str, problems: Problems, field: str = "model.name") -> bool:
    """Whether a `model_type` is that of a classifier that OFB knows; a problem where it is not."""
    if found in CLASSIFIERS:
        return True
    other = " SAMs go to `supersam-hf run`, and to `supersam-hf bimask` for OFB's search." if found in SAMS else ""
    problems.add(field, f"{_called(found)}; `ofb {verb}` takes a classifier, one of {list(CLASSIFIERS)}.{other}")
    return False


def check_backbone(found: str, problems: Problems) -> bool:
    """Whether a `model_type` is that of a backbone for a segmenter; a problem where it is not."""
    if found in BACKBONES:
        return True
    other = " SAMs go to `supersam-hf run`." if found in SAMS else ""
    problems.add("model.name", f"{_called(found)}; `segment` takes a backbone, one of {list(BACKBONES)}.{other}")
    return False


def _called(found: str) -> str:
    relative = next((name for start, name in RELATIVES.items() if found.startswith(start)), None)
    if relative is not None:
        return f"it is a {relative} (`model_type` {found!r}), whose encoder is another and is not supported"
    return f"its `model_type` is {found!r}"


__all__ = ["check_backbone", "check_classifier", "check_sam", "model_type"]
