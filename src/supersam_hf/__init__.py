"""SuperSAM and OFB for the Hugging Face Hub: find the smaller network inside a vision transformer."""

import importlib
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForMaskGeneration,
    AutoProcessor,
)

from .models.classifiers import register_auto_classes
from .models.ofb_swin import OfbSwinConfig, OfbSwinForImageClassification, OfbSwinModel, OfbSwinPreTrainedModel
from .models.ofb_vit import (
    OfbViTConfig,
    OfbViTForImageClassification,
    OfbViTForSemanticSegmentation,
    OfbViTModel,
    OfbViTPreTrainedModel,
)
from .models.supersam import (
    ElasticLinear,
    ElasticSpace,
    Subnet,
    SuperSamConfig,
    SuperSamImageProcessor,
    SuperSamModel,
    SuperSamPreTrainedModel,
    SuperSamProcessor,
    SuperSamVisionConfig,
    SuperSamVisionModel,
)


__version__ = "0.1.0"

AutoConfig.register(SuperSamConfig.model_type, SuperSamConfig)
AutoConfig.register(SuperSamVisionConfig.model_type, SuperSamVisionConfig)
AutoModel.register(SuperSamConfig, SuperSamModel)
AutoModel.register(SuperSamVisionConfig, SuperSamVisionModel)
AutoModelForMaskGeneration.register(SuperSamConfig, SuperSamModel)
AutoImageProcessor.register(SuperSamConfig, image_processor_classes={"pil": SuperSamImageProcessor})
AutoProcessor.register(SuperSamConfig, SuperSamProcessor)
register_auto_classes()

# What a notebook needs beyond the models; loaded when first asked for, so that the import stays quick.
_LAZY = {
    "BiMaskArguments": "training.bimask_arguments",
    "Budget": "search",
    "ClassificationResult": "classification",
    "DataArguments": "data",
    "EvaluationResult": "evaluation",
    "ImageClassificationArguments": "data",
    "ImageDataset": "data",
    "PromptDataset": "data",
    "PruneArguments": "oneshot.arguments",
    "PushError": "hub",
    "SandwichArguments": "training.sandwich",
    "SearchArguments": "search",
    "SearchSpace": "bimask.space",
    "compile_layers": "models.supersam.compiling",
    "count_macs": "elastic.cost",
    "count_parameters": "elastic.cost",
    "elastic_lora_config": "elastic.lora",
    "evaluate_classifier": "classification",
    "evaluate_subnets": "evaluation",
    "extract_adapter": "elastic.lora_extraction",
    "export": "hub",
    "finetune": "training.finetune",
    "finetune_classifier": "training.finetune",
    "load_classification": "data",
    "load_elastic_adapter": "elastic.lora",
    "load_source": "data",
    "match_labels": "data",
    "measure_model": "measure",
    "prune": "oneshot.prune",
    "push": "hub",
    "rank_layers": "elastic.importance",
    "reorder": "elastic.reorder",
    "run_search": "search",
    "train_bimask": "training.bimask",
    "train_sandwich": "training.sandwich",
}

__all__ = [
    "ElasticLinear",
    "ElasticSpace",
    "OfbSwinConfig",
    "OfbSwinForImageClassification",
    "OfbSwinModel",
    "OfbSwinPreTrainedModel",
    "OfbViTConfig",
    "OfbViTForImageClassification",
    "OfbViTForSemanticSegmentation",
    "OfbViTModel",
    "OfbViTPreTrainedModel",
    "Subnet",
    "SuperSamConfig",
    "SuperSamImageProcessor",
    "SuperSamModel",
    "SuperSamPreTrainedModel",
    "SuperSamProcessor",
    "SuperSamVisionConfig",
    "SuperSamVisionModel",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
