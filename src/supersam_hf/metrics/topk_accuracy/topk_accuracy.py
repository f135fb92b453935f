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
    predictions: one entry an example, the scores (logits or probabilities) of all labels
    references: one entry an example, the index of its true label
    k: the numbers of labels that count, each at least 1 and at most the number of labels (defaults to 1 and 5)
Returns:
    top<k>: for each k the share of examples, in [0, 1]
    num_examples: number of examples
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class TopKAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        predictions = datasets.List(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": predictions, "references": datasets.Value("int64")}),
            reference_urls=["https://arxiv.org/abs/1409.0575"],
        )

    def _compute(
        self, predictions: list[list[float]], references: list[int], k: tuple[int, ...] = (1, 5)
    ) -> dict[str, float | int]:
        lengths = {len(scores) for scores in predictions}
        if len(lengths) != 1:
            raise ValueError(f"Every prediction needs one score a label; there are some of lengths {sorted(lengths)}.")
        scores, labels = np.asarray(predictions), np.asarray(references)
        num_labels = scores.shape[1]
        if labels.min() < 0 or labels.max() >= num_labels:
            raise ValueError(f"`references` must be in 0 to {num_labels - 1}, got {labels.min()} to {labels.max()}.")
        if not k or min(k) < 1 or max(k) > num_labels:
            raise ValueError(f"Each `k` must be between 1 and the {num_labels} labels, got {tuple(k)}.")
        ranked = np.argsort(-scores, axis=1, kind="stable")
        place = (ranked == labels[:, None]).argmax(1)
        return {f"top{n}": float((place < n).mean()) for n in k} | {"num_examples": len(labels)}
