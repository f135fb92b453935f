"""The recipes of SuperSAM's trainings: the paper's numbers, worked out from the config of SAM ViT-B."""

from pathlib import Path

import pytest
from transformers import SamConfig

from supersam_hf import ElasticSpace, SuperSamConfig, count_parameters
from supersam_hf.experiments.arguments import ExperimentArguments
from supersam_hf.experiments.runs import read_recipe
from supersam_hf.recipe import Recipe


ROOT = Path(__file__).parents[1]
TWO_D = ("sa1b", "coco", "ade20k", "mitochondria")
# SuperSAM, section IV: parameters in weight tensors; the 1-D spaces are its supernets A.
# by pencil: 11 elastic layers, MLPs from 768 to 256 units, attention from 768 to 12 x 42 channels
ADE20K_1D = 51_450_724 - 11 * (2 * 768 * (768 - 256) + 4 * 768 * (768 - 504))
SMALLEST = {**dict.fromkeys(TWO_D, 33_748_324), "sa1b_1d": 51_450_724, "ade20k_1d": ADE20K_1D}
SUBNETS = {**dict.fromkeys(TWO_D, 12_800_000), "sa1b_1d": 4**11, "ade20k_1d": (5 * 2) ** 11}
# Images trained and evaluated on, objects an image, target of Table I.
DATA = {
    "sa1b": ("train[:10000]", "train[10000:10100]", None, None, 64, "point", 0.70),
    "coco": ("train2017", "val2017", 92_000, None, 8, "point", 0.70),
    "ade20k": ("training", "validation", None, 100, 8, "point", 0.55),
    "mitochondria": ("training", "testing", None, None, 1, "box", 0.84),
}


def recipe(name: str) -> Recipe:
    return read_recipe(str(ROOT / f"recipes/supersam/{name}.yaml"), {})


def space_of(recipe: Recipe) -> ElasticSpace:
    given = {key: value for key, value in vars(recipe.space).items() if value is not None}
    assert given.pop("sample_full") is False
    listed = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return ElasticSpace.for_config(vit_b(), **listed)


def vit_b() -> SuperSamConfig:
    return SuperSamConfig(**SamConfig().to_dict())


@pytest.mark.parametrize("name", SMALLEST)
def test_the_space_has_the_papers_numbers(name: str) -> None:
    space = space_of(recipe(name))
    assert space.size == SUBNETS[name]
    assert count_parameters(vit_b(), space.smallest(), weights_only=True) == SMALLEST[name]
    assert count_parameters(vit_b(), space.largest(), weights_only=True) == 90_379_108
    assert space.protected_layers == (0,)
    assert space.prunable_layers == (() if name.endswith("_1d") else (1, 2, 5, 6, 9))


@pytest.mark.parametrize("name", DATA)
def test_the_data_are_the_papers(name: str) -> None:
    data, train = recipe(name).data, recipe(name).train
    assert train.milestone is not None
    values = (data.train_split, data.eval_split, data.max_train_images, data.max_eval_images)
    assert (*values, data.max_objects, data.prompt, train.milestone.miou) == DATA[name]
    assert (data.source, data.format) != ("shapes", "auto")


@pytest.mark.parametrize("name", SMALLEST)
def test_training_is_the_papers(name: str) -> None:
    train = recipe(name).train
    assert (train.learning_rate, train.min_lr_ratio, train.num_sampled) == (1e-5, 0.01, 1)
    loss = train.loss
    assert (loss.dice_squared, loss.bce_weight, loss.iou_weight, loss.distillation_weight) == (False, 0, 0, 0)
    assert recipe(name).model.name == "facebook/sam-vit-base"
    assert recipe(name).evaluate.num_sampled == 100


def test_mitochondria_are_patches_of_whole_tissue() -> None:
    data = recipe("mitochondria").data
    assert (data.patch_size, data.min_area, data.box_padding, data.merge_objects) == (256, 100, 20, True)


@pytest.mark.parametrize("two_d", ["sa1b", "ade20k"])
def test_supernet_a_differs_in_its_space_alone(two_d: str) -> None:
    a, b = recipe(f"{two_d}_1d"), recipe(two_d)
    for section in ("model", "data", "reorder", "train", "evaluate", "search"):
        assert getattr(a, section) == getattr(b, section)


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/experiments/*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_fills_its_runs(path: Path) -> None:
    args = ExperimentArguments.read(path)
    assert args.kind == path.stem
    for variant, values in args.variants.items():
        base = str(ROOT / "recipes/supersam/sa1b.yaml")
        filled = read_recipe(base, {**args.settings, **values, "seed": 3, "output_dir": f"runs/{variant}"})
        assert filled.seed == 3
        assert filled.train.seed == filled.data.seed == 3
        assert filled.evaluate.seed == 0  # the same subnets with every seed


def test_a_wrong_value_of_a_recipe_is_named() -> None:
    base = str(ROOT / "recipes/supersam/sa1b.yaml")
    with pytest.raises(ValueError, match="reorder.method"):
        read_recipe(base, {"reorder.method": "random"})
    with pytest.raises(ValueError, match="no_such_section"):
        read_recipe(base, {"no_such_section.key": 1})
    with pytest.raises(ValueError, match="recipe no/such/recipe.yaml cannot be read: No such file"):
        read_recipe("no/such/recipe.yaml", {})
