"""Mean intersection over union of prompted masks, an `evaluate` module that stands alone."""

import math
from typing import Any

import datasets
import evaluate
from pycocotools import mask as coco_mask


_CITATION = """\
@article{abebe2025supersam,
  title={SuperSAM: Crafting a SAM Supernetwork via Structured Pruning and Unstructured Parameter Prioritization},
  author={Abebe, Waqwoya and Jafari, Sadegh and Yu, Sixing and Dutta, Akash and Strube, Jan and Tallent, Nathan R. and
    Guo, Luanzheng and Munoz, Pablo and Jannesari, Ali},
  journal={arXiv preprint arXiv:2501.08504},
  year={2025}
}
"""

_DESCRIPTION = """\
Mean over objects of the intersection over union between an object and the masks a prompted segmentation model (SAM)
gives for it. A model may give several masks a prompt; which of them counts makes three numbers: the best one by the
ground truth (an upper bound, as SuperSAM reports it), the one the model itself scores highest (what a user gets), and
the first one. An object without a pixel is none: it is left out and counted.
"""

_INPUTS_DESCRIPTION = """\
Args:
    predictions: one entry an object, a dict of
        masks: the masks of the object's prompt as COCO compressed run lengths, dicts of `size` ([height, width]) and
            `counts` (str); at least one
        scores: predicted IoU of each mask
    references: one entry an object, the true mask as COCO compressed run lengths
Returns:
    miou_oracle: mean over objects of the best IoU of an object's masks, in [0, 1]
    miou_predicted: mean over objects of the IoU of the mask with the highest score (the first of equal ones)
    miou_single: mean over objects of the IoU of the first mask
    num_objects: number of objects with a pixel at least: those of the means
    num_empty: number of references without a pixel, which are left out; a `ValueError` if all are
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class InstanceMeanIoU(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        run_lengths = {"size": [datasets.Value("int64")], "counts": datasets.Value("string")}
        predictions = {"masks": [run_lengths], "scores": [datasets.Value("float32")]}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": predictions, "references": run_lengths}),
            reference_urls=["https://arxiv.org/abs/2501.08504"],
        )

    def _compute(self, predictions: list[dict[str, Any]], references: list[dict[str, Any]]) -> dict[str, float | int]:
        oracle, predicted, single = [], [], []
        for number, (prediction, reference) in enumerate(zip(predictions, references)):
            masks, scores = prediction["masks"], prediction["scores"]
            if not masks or len(masks) != len(scores):
                raise ValueError(
                    f"Object {number} has {len(masks)} masks and {len(scores)} scores; "
                    "`masks` and `scores` need one entry a mask, and at least one."
                )
            for score in scores:
                if not math.isfinite(score):
                    raise ValueError(f"Object {number} has the score {score}; `scores` are finite numbers.")
            ious = _ious(masks, reference)
            if coco_mask.area(reference) == 0:
                continue
            oracle.append(max(ious))
            predicted.append(ious[scores.index(max(scores))])
            single.append(ious[0])
        count = len(single)
        if not count:
            raise ValueError(f"None of the {len(references)} references has a pixel: there is no object to score.")
        return {
            "miou_oracle": sum(oracle) / count,
            "miou_predicted": sum(predicted) / count,
            "miou_single": sum(single) / count,
            "num_objects": count,
            "num_empty": len(references) - count,
        }


def _ious(masks: list[dict[str, Any]], reference: dict[str, Any]) -> list[float]:
    """IoU of each mask with the reference."""
    for mask in masks:
        if list(mask["size"]) != list(reference["size"]):
            raise ValueError(
                f"A mask of size {list(mask['size'])} cannot be compared with one of {list(reference['size'])}."
            )
    return coco_mask.iou(masks, [reference], [0])[:, 0].tolist()
