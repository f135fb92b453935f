"""A subnet straight from its supernet's repository: by the name of a Pareto point, or the best within limits."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from test_pipeline import argv
from transformers import AutoConfig, AutoModel, AutoModelForMaskGeneration, SamModel

from supersam_hf import (
    ElasticSpace,
    OfbViTConfig,
    OfbViTForImageClassification,
    Subnet,
    SuperSamConfig,
    SuperSamModel,
    count_macs,
    count_parameters,
)
from supersam_hf.hub import export
from supersam_hf.models.supersam.pareto_supersam import ParetoFront
from supersam_hf_cli import main


FAR = 2  # a format version that this code does not know


def front_of(model: SuperSamModel) -> dict[str, Any]:
    """Four points whose order by parameters is not that by multiply-accumulates: global layers cost more of these."""
    space, config = model.elastic_space, model.config
    without_global, without_windowed = space.subnet((1,)), space.subnet((2,))
    narrow = space.subnet((1,), mlp_dim=min(space.mlp_windows))
    subnets = [space.smallest(), narrow, without_global, without_windowed]
    subnets = sorted(subnets, key=lambda subnet: count_parameters(config, subnet))
    points = [
        {
            "name": f"pareto-{i}",
            "subnet": subnet.to_dict(),
            "params": count_parameters(config, subnet),
            "macs": count_macs(config, subnet),
            "holdout_miou": 0.5 + 0.1 * i,
        }
        for i, subnet in enumerate(subnets)
    ]
    largest = {"params": count_parameters(config), "macs": count_macs(config)}
    return {"format_version": 1, "largest": largest, "points": points}


@pytest.fixture(scope="module")
def published(stock_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supernet as it is pushed: weights, space, front, code."""
    model = SuperSamModel.from_pretrained(stock_folder)
    model.config.elastic_space = ElasticSpace.for_config(model.config, prunable_layers=(1, 2)).to_dict()
    return export(model, tmp_path_factory.mktemp("hub") / "supernet", pareto=front_of(model))


@pytest.fixture
def front(published: Path) -> dict[str, Any]:
    return json.loads((published / "pareto.json").read_text())


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(published, tmp_path / "supernet"))


def masks(model: Any, inputs: dict[str, torch.Tensor], **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs, **kwargs).pred_masks


@pytest.mark.parametrize("name", ["pareto-0", "pareto-1", "pareto-2", "pareto-3"])
def test_a_point_by_name_is_that_subnet_standalone(published: Path, front: dict, inputs: dict, name: str) -> None:
    alone = SuperSamModel.from_pretrained(published, subnet=name)
    point = front["points"][int(name[-1])]
    subnet = Subnet.from_dict(point["subnet"])
    assert torch.equal(masks(alone, inputs), masks(SuperSamModel.from_pretrained(published), inputs, subnet=subnet))
    assert sum(p.numel() for p in alone.parameters()) == point["params"]
    assert (alone.config.subnet, alone.config.subnet_name) == (point["subnet"], name)
    assert alone.config.elastic_space is None


def test_the_point_stays_on_record_through_a_save(published: Path, tmp_path: Path, inputs: dict) -> None:
    alone = SuperSamModel.from_pretrained(published, subnet="pareto-1")
    alone.save_pretrained(tmp_path)
    again = SuperSamModel.from_pretrained(tmp_path)
    assert again.config.subnet_name == "pareto-1"
    assert torch.equal(masks(again, inputs), masks(alone, inputs))
    deeper = again.extract(Subnet((0,), (192,), (16,)))
    assert deeper.config.subnet_name is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_arguments_are_the_models(published: Path, dtype: torch.dtype) -> None:
    options = {"dtype": dtype, "attn_implementation": "eager", "image_size": 96, "output_loading_info": True}
    alone, info = SuperSamModel.from_pretrained(published, subnet="pareto-0", **options)
    assert alone.dtype == dtype
    assert alone.config._attn_implementation == "eager"
    assert alone.config.vision_config.image_size == 96
    assert not info["missing_keys"]


def test_a_limit_picks_the_best_point_within(published: Path, front: dict) -> None:
    """Against a search through the list, for every limit that changes the answer."""
    points, largest = front["points"], front["largest"]
    assert [p["macs"] for p in points] != sorted(p["macs"] for p in points)
    limits = [(p["params"], None) for p in points] + [(None, p["macs"]) for p in points]
    limits += [(a["params"], b["macs"]) for a in points for b in points]
    limits += [(p["params"] / largest["params"] + 1e-9, None) for p in points] + [(1, 1), (1e15, None), (None, 1.0)]
    found = ParetoFront.from_pretrained(published)
    tried = 0
    for params, macs in limits:
        most_params = float("inf") if params is None else params if params > 1 else params * largest["params"]
        most_macs = float("inf") if macs is None else macs if macs > 1 else macs * largest["macs"]
        within = [p for p in points if p["params"] <= most_params and p["macs"] <= most_macs]
        if within:
            tried += 1
            assert found.best(params, macs).name == max(within, key=lambda p: p["holdout_miou"])["name"]
    assert tried >= 20


def test_a_limit_loads_that_point(published: Path, front: dict) -> None:
    second = front["points"][1]
    alone = SuperSamModel.from_pretrained(published, max_params=second["params"] + 1)
    assert (alone.config.subnet_name, alone.config.subnet) == ("pareto-1", second["subnet"])
    share = (second["params"] + 1) / front["largest"]["params"]
    assert SuperSamModel.from_pretrained(published, max_params=share).config.subnet_name == "pareto-1"
    fewest_macs = min(front["points"], key=lambda point: point["macs"])
    alone = SuperSamModel.from_pretrained(published, max_macs=fewest_macs["macs"])
    assert alone.config.subnet_name == fewest_macs["name"]


def test_of_equal_quality_the_smaller_is_taken(folder: Path, front: dict) -> None:
    for point in front["points"]:
        point["holdout_miou"] = 0.5
    (folder / "pareto.json").write_text(json.dumps(front))
    assert ParetoFront.from_pretrained(folder).best(1.0).name == "pareto-0"


def test_a_subnet_itself_or_the_ends_of_the_space_need_no_front(folder: Path, inputs: dict) -> None:
    (folder / "pareto.json").unlink()
    supernet = SuperSamModel.from_pretrained(folder)
    space = supernet.elastic_space
    chosen = space.sample(torch.Generator().manual_seed(0))
    asked = {"largest": space.largest(), "smallest": space.smallest()}
    cases = [*asked.items(), (chosen, chosen), (chosen.to_dict(), chosen)]
    for given, subnet in cases:
        alone = SuperSamModel.from_pretrained(folder, subnet=given)
        assert torch.equal(masks(alone, inputs), masks(supernet, inputs, subnet=subnet))
        assert alone.config.subnet == subnet.to_dict()
        assert alone.config.subnet_name == (given if isinstance(given, str) else None)


TOO_WIDE = {"layers": [0, 1], "mlp_dim": [192, 4096], "head_dim": [16, 16]}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"subnet": "pareto-9"}, r"'pareto-9'; .*pareto-0 \([\d,]+ parameters\), pareto-1 .*pareto-3"),
    ({"subnet": "smalest"}, "'smalest'"),
    ({"max_params": 1000}, r"`max_params` 1,000; the smallest is pareto-0 with {params:,} parameters"),
    ({"max_params": 0.01}, r"`max_params` [\d,]+; the smallest is pareto-0"),
    ({"max_macs": 1000}, r"`max_macs` 1,000; the smallest is pareto-\d with [\d,]+ parameters and {macs:,} multiply"),
    ({"max_params": 0}, "`max_params` is 0"),
    ({"max_macs": float("nan")}, "`max_macs` is nan"),
    ({"subnet": "pareto-0", "max_params": 0.5}, "not both"),
    ({"subnet": TOO_WIDE}, "`mlp_dim` of layer 1 is 4096; the model has 1 to 192"),
    ({"subnet": Subnet((0, 40), (192, 192), (16, 16))}, r"`layers` of the subnet names \[40\]"),
    ({"subnet": {"layers": [0]}}, "missing"),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_what_is_not_there_is_refused_before_any_weights(
    folder: Path, front: dict, asked: dict[str, Any], message: str
) -> None:
    (folder / "model.safetensors").unlink()
    least = {key: min(point[key] for point in front["points"]) for key in ("params", "macs")}
    for key, value in least.items():
        message = message.replace(f"{{{key}:,}}", f"{value:,}")
    with pytest.raises(ValueError, match=message):
        SuperSamModel.from_pretrained(folder, **asked)


def test_a_front_that_does_not_fit_its_supernet_is_refused(folder: Path, front: dict) -> None:
    front["points"][0]["subnet"] = TOO_WIDE
    (folder / "pareto.json").write_text(json.dumps(front))
    with pytest.raises(ValueError, match="`mlp_dim` of layer 1 is 4096"):
        SuperSamModel.from_pretrained(folder, subnet="pareto-0")


@pytest.mark.parametrize("asked", [{"subnet": "pareto-2"}, {"max_params": 0.5}, {"max_macs": 1e9}])
def test_without_a_front_it_says_what_to_do(stock_folder: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"holds no pareto\.json.*'largest', 'smallest'.*supersam-hf push"):
        SuperSamModel.from_pretrained(stock_folder, **asked)


@pytest.mark.parametrize("lost", ["points", "largest", "macs", "holdout_miou"])
def test_an_incomplete_front_is_refused(folder: Path, front: dict, lost: str) -> None:
    for part in (front, *front["points"]):
        part.pop(lost, None)
    (folder / "pareto.json").write_text(json.dumps(front))
    with pytest.raises(ValueError, match=f"lacks '{lost}'"):
        SuperSamModel.from_pretrained(folder, subnet="pareto-0")


def test_the_ends_of_an_extracted_subnet_are_refused(published: Path, tmp_path: Path) -> None:
    SuperSamModel.from_pretrained(published, subnet="pareto-0").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="itself a subnet"):
        SuperSamModel.from_pretrained(tmp_path, subnet="smallest")


def test_auto_classes_hand_it_through(published: Path, front: dict) -> None:
    subnet = front["points"][2]["subnet"]
    for auto in (AutoModel, AutoModelForMaskGeneration):
        for asked in ({"subnet": "pareto-2"}, {"subnet": Subnet.from_dict(subnet)}, {"subnet": subnet}):
            assert auto.from_pretrained(published, **asked).config.subnet == subnet
        assert auto.from_pretrained(published, max_params=1.0).config.subnet_name == "pareto-3"
    config = AutoConfig.from_pretrained(published, subnet="pareto-2")
    assert config.subnet is None, "a record, not a request"


REMOTE = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskGeneration, pipeline

source, tensors, out = sys.argv[1:4]
try:
    AutoModelForMaskGeneration.from_pretrained(source, trust_remote_code=True, subnet="pareto-9")
except ValueError as error:
    print(error)
model = AutoModelForMaskGeneration.from_pretrained(source, trust_remote_code=True, subnet="pareto-2").eval()
assert "supersam_hf" not in sys.modules
with torch.no_grad():
    save_file({"masks": model(**load_file(tensors)).pred_masks.contiguous()}, out)
print(model.config.subnet_name)
# before the model, a pipeline loads the config by itself
options = {"trust_remote_code": True, "model_kwargs": {"subnet": "pareto-1"}}
print(pipeline("mask-generation", model=source, **options).model.config.subnet_name)
"""


def test_works_as_remote_code_without_the_package(
    published: Path, bare_python: str, hub: HubServer, tmp_path: Path, inputs: dict
) -> None:
    push(published, "org/supernet")
    given, made = tmp_path / "given.safetensors", tmp_path / "made.safetensors"
    save_file(inputs, given)
    command = [bare_python, "-c", REMOTE, "org/supernet", given, made]
    done = subprocess.run(command, capture_output=True, text=True, env=hub.env(tmp_path / "home"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    refused, name, piped = done.stdout.strip().splitlines()
    assert "'pareto-9'" in refused
    assert "pareto-3" in refused
    assert (name, piped) == ("pareto-2", "pareto-1")
    ours = masks(SuperSamModel.from_pretrained(published, subnet="pareto-2"), inputs)
    assert torch.equal(load_file(made)["masks"], ours)


def push(folder: Path, repo_id: str, **kwargs: Any) -> str:
    """The commit."""
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, private=kwargs.pop("private", None))
    return api.upload_folder(folder_path=folder, repo_id=repo_id, **kwargs).oid


def weights_asked_for(hub: HubServer) -> bool:
    return any("safetensors" in path for _, path in hub.requests)


def test_a_wrong_name_downloads_no_weights(published: Path, hub: HubServer) -> None:
    push(published, "org/supernet")
    hub.requests.clear()
    for asked in ({"subnet": "pareto-9"}, {"max_params": 10}, {"subnet": TOO_WIDE}):
        with pytest.raises(ValueError, match="pareto-|4096"):
            SuperSamModel.from_pretrained("org/supernet", **asked)
    assert hub.requests
    assert not weights_asked_for(hub)
    assert SuperSamModel.from_pretrained("org/supernet", subnet="pareto-1").config.subnet_name == "pareto-1"
    assert weights_asked_for(hub)


def test_the_front_is_of_the_revision_asked_for(published: Path, folder: Path, front: dict, hub: HubServer) -> None:
    """The same name means another subnet in each revision."""
    first = push(published, "org/supernet")
    changed = {**front, "points": [{**front["points"][3], "name": "pareto-0"}]}
    (folder / "pareto.json").write_text(json.dumps(changed))
    push(folder, "org/supernet")
    HfApi().create_branch("org/supernet", branch="old", revision=first)
    for revision, point in ((first, 0), ("old", 0), ("main", 3), (None, 3)):
        pinned = {} if revision is None else {"revision": revision}
        alone = SuperSamModel.from_pretrained("org/supernet", subnet="pareto-0", **pinned)
        assert alone.config.subnet == front["points"][point]["subnet"]
    with pytest.raises(ValueError, match="'pareto-3'"):
        SuperSamModel.from_pretrained("org/supernet", subnet="pareto-3")
    with pytest.raises(OSError, match="nowhere"):
        SuperSamModel.from_pretrained("org/supernet", subnet="pareto-0", revision="nowhere")


def test_private_repositories_subfolders_and_the_cache(published: Path, hub: HubServer, tmp_path: Path) -> None:
    push(published, "org/private", path_in_repo="deep/supernet", private=True)
    where = {"subfolder": "deep/supernet", "cache_dir": tmp_path / "cache"}
    with pytest.raises(OSError, match="org/private"):
        SuperSamModel.from_pretrained("org/private", subnet="pareto-1", token=False, **where)
    alone = SuperSamModel.from_pretrained("org/private", subnet="pareto-1", **where)
    hub.requests.clear()
    again = SuperSamModel.from_pretrained("org/private", subnet="pareto-1", local_files_only=True, **where)
    assert not hub.requests
    assert again.config.subnet == alone.config.subnet


def test_no_front_on_the_hub(stock_folder: Path, hub: HubServer) -> None:
    push(stock_folder, "org/plain-sam")
    hub.requests.clear()
    with pytest.raises(ValueError, match=r"`org/plain-sam` holds no pareto\.json"):
        SuperSamModel.from_pretrained("org/plain-sam", max_params=60e6)
    assert not weights_asked_for(hub)


def newer(folder: Path, name: str = "config.json") -> None:
    data = json.loads((folder / name).read_text())
    data |= {"format_version": FAR, "something_new": [1, 2]}
    (folder / name).write_text(json.dumps(data))


def test_a_newer_format_is_refused(folder: Path) -> None:
    assert json.loads((folder / "config.json").read_text())["format_version"] == 1
    newer(folder)
    for load in (SuperSamConfig, SuperSamModel, AutoConfig, AutoModel):
        with pytest.raises(ValueError, match=r"`format_version` .* is 2, .*up to 1.*Upgrade.*trust_remote_code"):
            load.from_pretrained(folder)


def test_a_newer_format_of_the_front_is_refused(folder: Path) -> None:
    newer(folder, "pareto.json")
    with pytest.raises(ValueError, match=r"`format_version` of pareto\.json .* is 2"):
        SuperSamModel.from_pretrained(folder, subnet="pareto-0")
    assert SuperSamModel.from_pretrained(folder).config.format_version == 1


def test_a_newer_format_of_a_classifier_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    OfbViTForImageClassification.from_pretrained(vit_folder).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == 1
    newer(tmp_path)
    for load in (OfbViTConfig, OfbViTForImageClassification, AutoConfig):
        with pytest.raises(ValueError, match=r"`format_version` .* is 2"):
            load.from_pretrained(tmp_path)


def test_a_folder_from_before_there_were_versions_loads(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    del data["format_version"]
    (folder / "config.json").write_text(json.dumps(data))
    assert SuperSamModel.from_pretrained(folder).config.format_version == 1


def test_stock_sam_knows_nothing_of_it(published: Path, tmp_path: Path) -> None:
    space = SuperSamModel.from_pretrained(published).elastic_space
    alone = SuperSamModel.from_pretrained(published, subnet=space.subnet((1,)))
    alone.to_sam().save_pretrained(tmp_path)
    assert not {"format_version", "subnet_name", "subnet"} & set(json.loads((tmp_path / "config.json").read_text()))
    assert isinstance(SamModel.from_pretrained(tmp_path), SamModel)


def extract(folder: Path, model: Path | str, subnet: str) -> int:
    return main(["extract", "--model.name", str(model), "--subnet", subnet, "--output_dir", str(folder)])


def test_the_command_line_takes_points_of_the_models_front(
    published: Path, front: dict, tmp_path: Path, capsys: pytest.CaptureFixture, hub: HubServer
) -> None:
    push(published, "org/supernet")
    for source in (published, "org/supernet"):
        run = tmp_path / f"run-{Path(source).parent.name}"
        assert extract(run, source, "pareto-1") == 0
        assert SuperSamModel.from_pretrained(run / "subnet").config.subnet == front["points"][1]["subnet"]
        assert extract(run, source, "pareto-7") == 2
        assert "pareto-3" in capsys.readouterr().err


def test_the_command_line_takes_points_of_the_runs_own_search(
    published: Path, front: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It goes before the front that the model came with."""
    assert extract(tmp_path, published, "smallest") == 0
    trials = [{**point, "quality": point["holdout_miou"]} for point in reversed(front["points"])]
    (tmp_path / "search.json").write_text(json.dumps({"front": trials, "best": None}))
    assert extract(tmp_path, published, "pareto-0") == 0
    assert SuperSamModel.from_pretrained(tmp_path / "subnet").config.subnet == front["points"][3]["subnet"]
    assert extract(tmp_path, published, "pareto-4") == 2
    assert "pareto-0, pareto-1, pareto-2, pareto-3" in capsys.readouterr().err


def test_a_run_that_has_not_searched_yet_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(argv(tmp_path, "pretrain")) == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("pretrain: {enabled: true}\n")
    assert main(["extract", "--config", str(recipe), "--subnet", "pareto-0", "--output_dir", str(tmp_path)]) == 2
    assert "search first" in capsys.readouterr().err
