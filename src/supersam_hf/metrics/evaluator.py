"""`evaluate`'s evaluator for image classification, with the scores of all labels handed to the metric."""

from collections.abc import Mapping
from typing import Any

from evaluate import EvaluationModule
from evaluate.evaluator import ImageClassificationEvaluator
from transformers import Pipeline, PreTrainedModel, pipeline

from . import load_topk_accuracy


class TopKImageClassificationEvaluator(ImageClassificationEvaluator):
    """Top-k accuracy of a `pipeline("image-classification")` on a dataset.

    `evaluate.evaluator("image-classification")` hands the metric one label an image, which tells the top 1 alone. This
    one hands it the logits of all labels, in the order of the dataset's, and takes pipelines and models of
    transformers 5 too, where `evaluate` 0.4.6 takes only names of repositories and folders. Needs scipy, as every
    evaluator does.

    Args:
        k (`tuple[int, ...]`, *optional*, defaults to `(1, 5)`): The numbers of labels that count.

    Example:

    ```python
    evaluator = TopKImageClassificationEvaluator()
    results = evaluator.compute("org/small-vit", data=dataset, label_mapping={"cat": 0, "dog": 1, …})
    results["top1"], results["top5"], results["samples_per_second"]
    ```

    `compute` takes what the stock evaluator takes; of a model, its image processor goes into `feature_extractor`.
    `label_mapping` (`dict[str, int]`) is needed: the dataset's index of each label name of the model. A name it lacks,
    or that the model gives to two labels, is a `ValueError`.
    """

    # The logits of all labels: a softmax makes labels equal whose logits are not.
    PIPELINE_KWARGS = {"top_k": 2**31, "function_to_apply": "none"}

    def __init__(self, k: tuple[int, ...] = (1, 5)) -> None:
        super().__init__()
        self.METRIC_KWARGS = {"k": tuple(k)}

    def prepare_metric(self, metric: str | EvaluationModule | None) -> EvaluationModule:
        """The package's `topk_accuracy` where no metric is given."""
        return load_topk_accuracy() if metric is None else super().prepare_metric(metric)

    def prepare_pipeline(
        self, model_or_pipeline: Any, tokenizer: Any = None, feature_extractor: Any = None, device: int | None = None
    ) -> Pipeline:
        """A pipeline is taken as it is, a model with its image processor is made one."""
        if isinstance(model_or_pipeline, PreTrainedModel):
            device = self._infer_device() if device is None else device
            return pipeline(self.task, model=model_or_pipeline, image_processor=feature_extractor, device=device)
        if isinstance(model_or_pipeline, Pipeline):
            if model_or_pipeline.task != self.task:
                raise ValueError(f"The pipeline must be one of {self.task!r}, got one of {model_or_pipeline.task!r}.")
            return model_or_pipeline
        return super().prepare_pipeline(model_or_pipeline, tokenizer, feature_extractor, device)

    def predictions_processor(
        self, predictions: list[list[dict[str, Any]]], label_mapping: Mapping[str, int] | None
    ) -> dict[str, list[list[float]]]:
        """Scores of each image in the order of the dataset's labels; -inf for those that the model does not know."""
        names = [entry["label"] for entry in predictions[0]]
        mapping = _checked(label_mapping, names)
        lowest = [float("-inf")] * (max(mapping.values()) + 1)
        found = []
        for prediction in predictions:
            scores = list(lowest)
            for entry in prediction:
                index = mapping[entry["label"]]
                scores[index] = max(scores[index], entry["score"])
            found.append(scores)
        return {"predictions": found}


def _checked(mapping: Mapping[str, int] | None, names: list[str]) -> Mapping[str, int]:
    """The mapping, if it has the labels of a model."""
    if mapping is None:
        raise ValueError(
            "`label_mapping` is needed: the dataset's index of each label name, as `model.config.label2id`."
        )
    missing = [name for name in names if name not in mapping]
    if missing:
        raise ValueError(f"`label_mapping` lacks {len(missing)} labels of the model, such as {missing[:3]}.")
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"The model gives the same name to several labels ({', '.join(sorted(twice))}), which a pipeline cannot "
            "tell apart. Rename them in `model.config.id2label`."
        )
    return mapping


__all__ = ["TopKImageClassificationEvaluator"]
