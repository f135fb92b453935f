"""Top-k accuracy of a classifier, an `evaluate` module that stands alone."""

import datasets
import evaluate
import numpy as np


_CITATION = """\
@article{russakovsky2015imagenet,
  title={ImageNet Large Scale Visual Recognition Challenge},
  author={Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
    Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
    Fei-Fei, Li},
  journal={International Journal of Computer Vision},
  year={2015}
}
"""

_DESCRIPTION = """\
Share of examples whose true label is among the k labels that a classifier scores highest. Of equal scores the label
with the smaller index counts as the higher one.
"""

_INPUTS_DESCRIPTION = """\
Args:
    predictions: one entry an example, the scores (logits or probabilities) of all labels, or the index of the one
        predicted label
    references: one entry an example, the index of its true label
    k: the numbers of labels that count, each at least 1 and at most the number of labels (defaults to 1 and 5); with
        predicted labels instead of scores only 1, the default then
Returns:
    top<k>: for each k the share of examples, in [0, 1]
    num_examples: number of examples
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class TopKAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        scores = datasets.List(datasets.Value("float32"))
        # Labels as floats: an integer feature would cut 0.7 to 0 in silence.
        kinds = (scores, datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": predictions, "references": datasets.Value("int64")})
                for predictions in kinds
            ],
            reference_urls=["https://arxiv.org/abs/1409.0575"],
        )

    def _compute(
        self, predictions: list[list[float]] | list[float], references: list[int], k: tuple[int, ...] | None = None
    ) -> dict[str, float | int]:
        labels = np.asarray(references)
        if isinstance(predictions[0], float):
            return _from_labels(np.asarray(predictions), labels, (1,) if k is None else k)
        lengths = {len(scores) for scores in predictions}
        if len(lengths) != 1:
            raise ValueError(f"Every prediction needs one score a label; there are some of lengths {sorted(lengths)}.")
        return _from_scores(np.asarray(predictions), labels, (1, 5) if k is None else k)


def _from_scores(scores: np.ndarray, labels: np.ndarray, k: tuple[int, ...]) -> dict[str, float | int]:
    """Scores are (examples, labels)."""
    num_labels = scores.shape[1]
    if labels.min() < 0 or labels.max() >= num_labels:
        raise ValueError(f"`references` must be in 0 to {num_labels - 1}, got {labels.min()} to {labels.max()}.")
    if not k or min(k) < 1 or max(k) > num_labels:
        raise ValueError(f"Each `k` must be between 1 and the {num_labels} labels, got {tuple(k)}.")
    ranked = np.argsort(-scores, axis=1, kind="stable")
    place = (ranked == labels[:, None]).argmax(1)
    return {f"top{n}": float((place < n).mean()) for n in k} | {"num_examples": len(labels)}


def _from_labels(predicted: np.ndarray, labels: np.ndarray, k: tuple[int, ...]) -> dict[str, float | int]:
    """Predicted labels are (examples,)."""
    if tuple(k) != (1,):
        raise ValueError(f"Predicted labels tell only `k=(1,)`, got {tuple(k)}: give the scores of all labels.")
    if (predicted != np.round(predicted)).any():
        raise ValueError("`predictions` must be label indices, or one list of scores an example; got fractions.")
    return {"top1": float((predicted == labels).mean()), "num_examples": len(labels)}
