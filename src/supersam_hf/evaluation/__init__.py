"""Instance mIoU: of one model or subnet, and of many subnets at once."""

from .decoding import PROMPTS
from .evaluate import box_baseline, calibration_images, evaluate, evaluate_subnets, quality_of
from .evaluator import CACHE_GB, SubnetEvaluator
from .result import NO_OBJECT, EvaluationResult
from .targets import Targets, upscaled


__all__ = [
    "CACHE_GB",
    "NO_OBJECT",
    "PROMPTS",
    "EvaluationResult",
    "SubnetEvaluator",
    "Targets",
    "box_baseline",
    "calibration_images",
    "evaluate",
    "evaluate_subnets",
    "quality_of",
    "upscaled",
]
