"""The metric folders as `evaluate` modules: their cards, loading them alone, and `evaluate`'s evaluators with them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import torch
from conftest import tiny_classifier
from hub_server import HubServer
from huggingface_hub import RepoCard, create_repo, upload_folder
from transformers import ImageClassificationPipeline, ViTForImageClassification, ViTImageProcessorPil, pipeline

import supersam_hf.metrics
from supersam_hf.classification import evaluate_classifier
from supersam_hf.data import build_loader
from supersam_hf.data.classification_arguments import ImageClassificationArguments
from supersam_hf.data.image_dataset import ImageDataset
from supersam_hf.data.shape_classes import CLASS_NAMES, shape_classes
from supersam_hf.metrics import load_topk_accuracy
from supersam_hf.metrics.evaluator import TopKImageClassificationEvaluator


FOLDERS = sorted(path.parent for path in Path(supersam_hf.metrics.__file__).parent.glob("*/README.md"))
LABELS = {name: index for index, name in enumerate(CLASS_NAMES)}


def named_vit(names: list[str]) -> ViTForImageClassification:
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return tiny_classifier("vit", num_labels=len(names), **labels)


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return shape_classes(40, image_size=32, seed=5)


@pytest.fixture(scope="module")
def model() -> ViTForImageClassification:
    names = list(reversed(CLASS_NAMES))  # in another order than the dataset's
    return named_vit(names)


@pytest.fixture(scope="module")
def folder(model: ViTForImageClassification, tmp_path_factory: pytest.TempPathFactory) -> str:
    found = tmp_path_factory.mktemp("vit")
    model.save_pretrained(found)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(found)
    return str(found)


@pytest.fixture(scope="module")
def pipe(folder: str) -> ImageClassificationPipeline:
    return pipeline("image-classification", model=folder)


@pytest.fixture(scope="module")
def expected(model: ViTForImageClassification, folder: str, data: datasets.Dataset) -> Any:
    """By our own evaluation, with the model's labels in the order of the dataset's."""
    ordered = tiny_classifier("vit", num_labels=10)
    ordered.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in (ordered.classifier.weight, ordered.classifier.bias):
            parameter.copy_(parameter.flip(0))
    processor = ViTImageProcessorPil.from_pretrained(folder)
    dataset = ImageDataset(data, processor, ImageClassificationArguments(), training=False)
    found = evaluate_classifier(ordered, build_loader(dataset, 8))
    assert 0 < found.top1 < found.top5 < 1
    return found


def test_both_metrics_are_here() -> None:
    assert [path.name for path in FOLDERS] == ["instance_miou", "topk_accuracy"]


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_cards_describe_the_modules(path: Path) -> None:
    card = RepoCard.load(path / "README.md")
    metadata = card.data.to_dict()
    assert {"evaluate", "metric"} <= set(metadata["tags"])
    assert metadata["title"]
    assert metadata["sdk"] == "static"
    module = evaluate.load(str(path))
    for section in ("Metric description", "How to use", "Inputs", "Output values", "Limitations and bias", "Citation"):
        assert re.search(rf"^##+ {section}$", card.text, re.MULTILINE), section
    feature = module.features if isinstance(module.features, dict) else module.features[0]
    assert (
        set(feature) == {"predictions", "references"} == set(re.findall(r"^- \*\*(\w+s)\*\* \(`list", card.text, re.M))
    )
    assert module.citation.strip() in card.text
    outputs = re.findall(r"^    ([\w<>]+): ", module.inputs_description.partition("Returns:")[2], re.MULTILINE)
    assert outputs
    assert all(f"**{name}**" in card.text.replace("\\", "") for name in outputs)


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_the_example_of_a_card_gives_what_it_says(path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (path / "README.md").read_text(), re.DOTALL)[1]
    body, call, said = re.fullmatch(r"(.*\n)(metric\.compute.*)\n# (.*)\n", code, re.DOTALL).groups()
    scope: dict[str, Any] = {}
    exec(body, scope)
    assert eval(call, scope) == eval(said)


def test_modules_load_from_a_copy_and_from_a_hub(hub: HubServer, tmp_path: Path) -> None:
    copy = shutil.copytree(FOLDERS[1], tmp_path / "topk_accuracy")
    scores = {"predictions": [[0.1, 0.9], [0.2, 0.8]], "references": [1, 0], "k": (1, 2)}
    result = {"top1": 0.5, "top2": 1.0, "num_examples": 2}
    assert evaluate.load(str(copy)).compute(**scores) == result
    create_repo("loopback/topk_accuracy", repo_type="space", space_sdk="static")
    upload_folder(repo_id="loopback/topk_accuracy", repo_type="space", folder_path=copy)
    assert evaluate.load("loopback/topk_accuracy").compute(**scores) == result


def test_labels_and_scores_give_the_same_top_1() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random((50, 7)), rng.integers(0, 7, 50)
    by_scores = load_topk_accuracy().compute(predictions=scores, references=labels, k=[1])
    assert load_topk_accuracy().compute(predictions=scores.argmax(1), references=labels) == by_scores
    assert by_scores["top1"] == (scores.argmax(1) == labels).mean()
    metric = load_topk_accuracy()
    for prediction, label in zip(scores.argmax(1).tolist(), labels.tolist()):
        metric.add(prediction=prediction, reference=label)
    assert metric.compute(k=(1,)) == by_scores


def test_predicted_labels_tell_no_more_than_the_top_1() -> None:
    with pytest.raises(ValueError, match=r"only `k=\(1,\)`"):
        load_topk_accuracy().compute(predictions=[0, 1], references=[0, 1], k=(1, 5))
    with pytest.raises(ValueError, match="fractions"):
        load_topk_accuracy().compute(predictions=[0.7, 1.0], references=[0, 1])
    with pytest.raises(ValueError, match="match the expected format"):
        load_topk_accuracy().compute(predictions=["cat", "dog"], references=[0, 1])


def test_the_stock_evaluator_takes_the_metric(folder: str, data: datasets.Dataset, expected: Any) -> None:
    evaluator = evaluate.evaluator("image-classification")
    result = evaluator.compute(folder, data=data, metric=load_topk_accuracy(), label_mapping=LABELS)
    assert (result["top1"], result["num_examples"]) == (pytest.approx(expected.top1), 40)


@pytest.mark.parametrize("kind", ["pipeline", "model", "folder"])
def test_top_5_by_the_evaluator_of_the_package(
    kind: str,
    pipe: ImageClassificationPipeline,
    model: ViTForImageClassification,
    folder: str,
    data: datasets.Dataset,
    expected: Any,
) -> None:
    evaluator = TopKImageClassificationEvaluator()
    given: dict[str, Any] = {"pipeline": pipe, "model": model, "folder": folder}
    extra = {"feature_extractor": pipe.image_processor} if kind == "model" else {}
    result = evaluator.compute(given[kind], data=data, label_mapping=LABELS, **extra)
    assert (result["top1"], result["top5"]) == (pytest.approx(expected.top1), pytest.approx(expected.top5))
    assert result["samples_per_second"] > 0


def test_other_k(pipe: ImageClassificationPipeline, data: datasets.Dataset) -> None:
    evaluator = TopKImageClassificationEvaluator(k=(3,))
    result = evaluator.compute(pipe, data=data.select(range(10)), label_mapping=LABELS)
    assert "top3" in result
    assert "top1" not in result


def test_the_evaluator_names_what_is_wrong(pipe: ImageClassificationPipeline, data: datasets.Dataset) -> None:
    compute: Callable[..., Any] = TopKImageClassificationEvaluator().compute
    few = data.select(range(2))
    with pytest.raises(ValueError, match="`label_mapping` is needed"):
        compute(pipe, data=few)
    with pytest.raises(ValueError, match="lacks 1 labels.*blue cross"):
        compute(pipe, data=few, label_mapping={name: i for name, i in LABELS.items() if name != "blue cross"})
    twins = named_vit(["crane", "crane", "ibis"])
    with pytest.raises(ValueError, match=r"several labels \(crane\)"):
        compute(twins, data=few, label_mapping={"crane": 0, "ibis": 1}, feature_extractor=pipe.image_processor)


def test_labels_that_the_model_does_not_know_come_last(pipe: ImageClassificationPipeline) -> None:
    image = shape_classes(1)["image"][0]
    outputs = pipe([image], top_k=10, function_to_apply="none")
    mapping = {name: index + 3 for name, index in LABELS.items()}
    (scores,) = TopKImageClassificationEvaluator().predictions_processor(outputs, mapping)["predictions"]
    assert scores[:3] == [float("-inf")] * 3
    by_name = {entry["label"]: entry["score"] for entry in outputs[0]}
    assert scores[3:] == [by_name[name] for name in CLASS_NAMES]


def test_instance_miou_has_no_task_in_evaluate() -> None:
    """What its card says; with a task for it there, an evaluator would be due."""
    from evaluate.evaluator import SUPPORTED_EVALUATOR_TASKS

    assert not {"mask-generation", "image-segmentation"} & set(SUPPORTED_EVALUATOR_TASKS)
