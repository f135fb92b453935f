"""Pushes to a Hub on loopback: one commit each, what was there before, and what is refused."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Fault, HubServer
from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError
from transformers import AutoModelForImageClassification, AutoModelForMaskGeneration, AutoProcessor

from supersam_hf import Subnet, SuperSamModel, SuperSamProcessor
from supersam_hf.hub import PushError, export, merged_readme, push
from supersam_hf.hub.contents import is_hub_id
from supersam_hf.hub.errors import reason_of
from supersam_hf_cli import main


REPO = "loopback/sam"


@pytest.fixture(scope="module")
def model(stock_folder: Path) -> SuperSamModel:
    sam = SuperSamModel.from_pretrained(stock_folder).eval()
    return sam.extract(Subnet((0, 1, 4, 5), (192, 48, 96, 96), (16, 16, 8, 16)))


@pytest.fixture(scope="module")
def folder(model: SuperSamModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(model, tmp_path_factory.mktemp("exported") / "sam", repo_id=REPO)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": REPO}))
    save_file({"a": torch.ones(2)}, folder / "adapter_model.safetensors")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files(hub: HubServer, revision: str = "main", repo_id: str = REPO) -> dict[str, bytes]:
    return hub.repos["models", repo_id].files(revision)


def titles(hub: HubServer, revision: str = "main") -> list[str]:
    return [commit.title for commit in hub.repos["models", REPO].history(revision)]


def test_a_folder_arrives_as_it_is_in_one_commit(hub: HubServer, folder: Path) -> None:
    commit = push(folder, REPO)
    assert files(hub) == contents(folder)
    assert titles(hub) == ["Upload model", "initial commit"]
    repo = hub.repos["models", REPO]
    assert commit.oid == repo.branches["main"].oid
    stored = repo.branches["main"].files
    assert stored["model.safetensors"].lfs
    assert not stored["modeling_supersam.py"].lfs


def test_pushed_again_nothing_changes(hub: HubServer, folder: Path) -> None:
    first = push(folder, REPO)
    assert push(folder, REPO).oid == first.oid
    assert titles(hub) == ["Upload model", "initial commit"]


def test_a_model_is_pushed_and_loaded_by_name(
    hub: HubServer, model: SuperSamModel, inputs: dict[str, torch.Tensor], bare_python: str, tmp_path: Path
) -> None:
    commit = push(model, "sam", private=True, commit_message="The subnet", commit_description="Of a test")
    repo = hub.repos["models", REPO]
    assert (repo.private, titles(hub)[0], repo.branches["main"].description) == (True, "The subnet", "Of a test")
    loaded = AutoModelForMaskGeneration.from_pretrained(REPO, revision=commit.oid)
    assert isinstance(loaded, SuperSamModel)
    with torch.no_grad():
        expected = model(**inputs).pred_masks
        assert torch.equal(loaded.eval()(**inputs).pred_masks, expected)
    assert isinstance(AutoProcessor.from_pretrained(REPO), SuperSamProcessor)

    torch.save(inputs, tmp_path / "inputs.pt")
    script = """
import sys, torch
from transformers import AutoModelForMaskGeneration
options = {"revision": sys.argv[1], "trust_remote_code": True}
model = AutoModelForMaskGeneration.from_pretrained("loopback/sam", **options).eval()
with torch.no_grad():
    torch.save(model(**torch.load("inputs.pt")).pred_masks, "masks.pt")
"""
    env = {k: v for k, v in hub.env(tmp_path / "home").items() if k != "PYTHONPATH"}
    command = [bare_python, "-c", script, commit.oid]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "masks.pt"), expected)


def test_a_branch_is_made_and_main_left_alone(hub: HubServer, folder: Path) -> None:
    push(folder, REPO, revision="v1")
    assert files(hub, "v1") == contents(folder)
    assert files(hub) == {}
    push(folder, REPO, revision="v1", tags=["second"])
    assert len(titles(hub, "v1")) == 3


def test_a_version_is_a_tag_that_stays_with_its_commit(hub: HubServer, folder: Path) -> None:
    hub.faults.append(Fault("POST", r"/tag/", "403"))
    with pytest.raises(PushError, match="The commit is there, its tag is not"):
        push(folder, REPO, version="weights-1")
    first = push(folder, REPO, version="weights-1")
    push(folder, REPO, version="weights-1", tags=["second"])
    assert HfApi().model_info(REPO, revision="weights-1").sha == first.oid
    assert len(titles(hub)) == 3
    with pytest.raises(ValueError, match="`version` tags a commit of a branch"):
        push(folder, REPO, version="weights-1", create_pr=True)


def test_a_pull_request_leaves_main_alone(hub: HubServer, folder: Path) -> None:
    commit = push(folder, REPO, create_pr=True)
    assert commit.pr_url
    assert files(hub) == {}
    assert files(hub, "refs/pr/1") == contents(folder)
    push(folder, REPO, revision="refs/pr/1", tags=["second"])
    assert "second" in ModelCard(files(hub, "refs/pr/1")["README.md"].decode()).data.tags
    assert files(hub) == {}


def test_a_readme_that_is_there_is_kept_and_its_metadata_updated(hub: HubServer, folder: Path) -> None:
    HfApi().create_repo(REPO)
    mine = b"---\nlicense: mit\ntags: [mine]\nlibrary_name: other\n---\n# My own words\n"
    HfApi().upload_file(path_or_fileobj=mine, path_in_repo="README.md", repo_id=REPO)
    push(folder, REPO, tags=["new", "mine"])
    card = ModelCard(files(hub)["README.md"].decode())
    assert card.text.strip() == "# My own words"
    assert (card.data.license, card.data.library_name) == ("mit", "transformers")
    assert card.data.tags == ["mine", "supersam", "pruning", "new"]
    assert len(titles(hub)) == 3
    push(folder, REPO, tags=["new", "mine"])
    assert len(titles(hub)) == 3


def test_a_card_that_nobody_edited_is_replaced_and_another_is_kept_with_a_warning(
    hub: HubServer, folder: Path, model: SuperSamModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    push(folder, REPO, tags=["first"])
    newer = export(model, tmp_path / "newer", card="---\ntags: [second]\n---\n# Newer\n")
    push(newer, REPO)
    card = ModelCard(files(hub)["README.md"].decode())
    assert card.text.strip() == ModelCard.load(newer / "README.md").text.strip()
    assert card.data.tags == ["supersam", "pruning", "first", "second"]
    assert not [message for message in caplog.messages if "keeps its text" in message]
    edited = files(hub)["README.md"].replace(b"# Newer", b"# Newer, in my words")
    HfApi().upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id=REPO)
    push(folder, REPO)
    assert b"# Newer, in my words" in files(hub)["README.md"]
    (message,) = [message for message in caplog.messages if "keeps its text" in message]
    assert f"README.md of {REPO}" in message
    assert "earlier push" in message


def test_what_an_earlier_push_left_is_deleted_with_the_same_commit(
    hub: HubServer, model: SuperSamModel, stock_folder: Path
) -> None:
    push(model, REPO, max_shard_size="200KB", pareto={"points": []}, search={"seed": 0})
    assert len([name for name in files(hub) if name.startswith("model-")]) > 1
    api = HfApi()
    mine = {"handler.py", "model-card.txt", "notes/search.json", "examples/train_supersam.py", "demo_supersam.py"}
    for name in sorted(mine):
        api.upload_file(path_or_fileobj=b"mine", path_in_repo=name, repo_id=REPO)
    before = len(titles(hub))
    sam = SuperSamModel.from_pretrained(stock_folder)
    push(sam, REPO, stock=True)
    assert len(titles(hub)) == before + 1
    assert set(files(hub)) == {"config.json", "model.safetensors", "processor_config.json", "README.md"} | mine


def test_a_folder_of_save_pretrained_is_exported_on_the_way(
    hub: HubServer, model: SuperSamModel, folder: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "subnet"
    model.save_pretrained(saved)
    SuperSamProcessor.for_config(model.config).save_pretrained(saved)
    (saved / "search.json").write_text('{"seed": 0}\n')
    push(saved, REPO)
    found = files(hub)
    assert json.loads(found.pop("search.json")) == {"seed": 0}
    assert f'from_pretrained("{REPO}", trust_remote_code=True)' in found.pop("README.md").decode()
    assert found == {name: data for name, data in contents(folder).items() if name != "README.md"}
    assert "README.md" not in {path.name for path in saved.iterdir()}


def test_a_model_of_one_repository_is_published_with_its_code_in_another(
    hub: HubServer, model: SuperSamModel, folder: Path, tmp_path: Path
) -> None:
    push(model, "loopback/first")
    loaded = AutoModelForMaskGeneration.from_pretrained("loopback/first")
    loaded.save_pretrained(tmp_path / "saved")
    for number, source in enumerate((loaded, tmp_path / "saved")):
        push(source, f"loopback/second{number}")
        found = files(hub, repo_id=f"loopback/second{number}")
        assert "loopback/first" not in found["config.json"].decode()
        assert set(found) == set(contents(folder))


def test_an_adapter_is_pushed_as_it_is(hub: HubServer, adapter: Path) -> None:
    push(adapter, REPO, tags=["lora"])
    found = files(hub)
    card = ModelCard(found.pop("README.md").decode())
    assert (card.data.library_name, card.data.base_model, card.data.tags) == ("peft", REPO, ["lora"])
    assert found == contents(adapter)
    assert titles(hub)[0] == "Upload adapter"
    push(adapter, "loopback/with-card", card="---\nlibrary_name: peft\n---\n# Mine\n")
    assert files(hub, repo_id="loopback/with-card")["README.md"].endswith(b"# Mine\n")
    assert "README.md" not in contents(adapter)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(adapter.parent), "revision": "weights-1"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    push(adapter, "loopback/of-a-folder")
    published = files(hub, repo_id="loopback/of-a-folder")
    expected = {"peft_type": "LORA", "base_model_name_or_path": None, "revision": None}
    assert json.loads(published["adapter_config.json"]) == expected
    assert ModelCard(published["README.md"].decode()).data.base_model is None
    with pytest.raises(ValueError, match=r"\['search'\] do not go with"):
        push(adapter, REPO, search={})


def test_the_card_that_peft_writes_is_not_published(hub: HubServer, tmp_path: Path, vit_folder: Path) -> None:
    peft = pytest.importorskip("peft")
    model = AutoModelForImageClassification.from_pretrained(vit_folder)
    config = peft.LoraConfig(r=2, target_modules=["fc1"], revision="main")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "lora")
    written = (tmp_path / "lora" / "README.md").read_text()
    assert str(vit_folder) in written
    assert "[More Information Needed]" in written
    push(tmp_path / "lora", REPO)
    for name, data in files(hub).items():
        assert str(vit_folder) not in data.decode("latin-1"), name
    found = json.loads(files(hub)["adapter_config.json"])
    assert (found["base_model_name_or_path"], found["revision"]) == (None, None)
    assert ModelCard(files(hub)["README.md"].decode()).text.strip() == ""
    assert (tmp_path / "lora" / "README.md").read_text() == written


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/sam-vit-base", True),
        *((name, False) for name in ("sam", "a/b/c", "./sam", "../x", "~/sam", "/tmp/sam", "runs\\sam", "C:/sam", "")),
        ("there/subnet", False),
    ],
)
def test_a_name_is_of_the_hub_or_of_this_computer(
    name: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / "subnet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name) == expected


def test_a_repository_holds_a_model_or_an_adapter(hub: HubServer, folder: Path, adapter: Path) -> None:
    push(folder, REPO)
    with pytest.raises(PushError, match=r"holds a config\.json.*nothing was committed"):
        push(adapter, REPO)
    push(adapter, "loopback/lora")
    with pytest.raises(PushError, match=r"holds a adapter_config\.json"):
        push(folder, "loopback/lora")
    assert files(hub) == contents(folder)


def test_a_public_repository_is_not_pushed_to_as_private(hub: HubServer, folder: Path) -> None:
    HfApi().create_repo(REPO, private=False)
    with pytest.raises(PushError, match="exists and is public"):
        push(folder, REPO, private=True)
    assert files(hub) == {}
    with pytest.raises(PushError, match="exists and is public"):
        push(folder, REPO, private=True, revision="v1")
    assert "v1" not in hub.repos["models", REPO].branches
    push(folder, REPO)


def test_a_commit_that_came_between_is_built_upon(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, REPO)
    original = HfApi.create_commit
    words = b"---\nlicense: mit\n---\nWritten meanwhile\n"

    def late(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(HfApi, "create_commit", original)
        HfApi().upload_file(path_or_fileobj=words, path_in_repo="README.md", repo_id=REPO)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", late)
    push(folder, REPO, tags=["new"])
    card = ModelCard(files(hub)["README.md"].decode())
    assert (card.text.strip(), card.data.license) == ("Written meanwhile", "mit")
    assert "new" in card.data.tags


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "a b", "-x/y", "a/b..c", "a//b"])
def test_a_malformed_repo_id_is_refused_before_any_work(hub: HubServer, folder: Path, repo_id: str) -> None:
    with pytest.raises(ValueError, match="[Rr]epo id|repo_id"):
        push(folder, repo_id)
    assert hub.requests == []


def test_without_a_token_nothing_is_sent(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(LocalTokenNotFoundError, match="hf auth login"):
        push(folder, REPO)
    assert hub.requests == []


def test_a_folder_without_a_model_is_refused(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        push(tmp_path / "missing", REPO)
    with pytest.raises(
        ValueError, match=r"no model \(config.json with model.safetensors.*no adapter \(adapter_config"
    ):
        push(tmp_path, REPO)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds no model"):
        push(tmp_path, REPO)
    assert hub.requests == []


def test_pickles_are_never_sent(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    here = shutil.copytree(folder, tmp_path / "here")
    for name in ("training_args.bin", "rng.NPY", "state.PT"):
        (here / name).write_bytes(b"pickle")
        with pytest.raises(ValueError, match=rf"'{name}', which may be a pickle"):
            push(here, REPO, include=[name])
    assert hub.requests == []
    push(here, REPO)
    assert files(hub) == contents(folder)


def test_a_token_is_never_told(hub: HubServer, folder: Path) -> None:
    push(folder, REPO, token=f" {get_token()}\n")
    with pytest.raises(ValueError, match="`token` has a space") as caught:
        push(folder, REPO, token="hf_SECRET\n123")
    assert "SECRET" not in str(caught.value)
    with pytest.raises(HTTPError, match="Illegal header value") as illegal:
        HfApi(token="hf_SECRET123\n").create_repo(REPO)
    assert "SECRET" in str(illegal.value)
    assert "SECRET" not in reason_of(illegal.value)
    assert "Illegal header value" in reason_of(illegal.value)


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_loopback_read", r"needs write access.*\(403\)"), ("hf_wrong", r"hf auth login.*\(401\)")],
)
def test_a_token_that_does_not_serve_is_said_so(hub: HubServer, folder: Path, token: str, message: str) -> None:
    with pytest.raises(PushError, match=message) as caught:
        push(folder, REPO, token=token)
    assert caught.value.step == "create the repository"
    assert isinstance(caught.value.__cause__, HfHubHTTPError)
    assert hub.repos == {}


def test_a_namespace_of_others_is_said_so(hub: HubServer, folder: Path) -> None:
    hub.forbidden.add("others")
    with pytest.raises(PushError, match=r"namespace \(403\)"):
        push(folder, "others/sam")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("401", "hf auth login"),
        ("403", "write access"),
        ("404", "does not exist"),
        ("409", "another operation"),
        ("412", "somebody else committed"),
        ("429", "rate of requests"),
        ("500", "an error of its own"),
        ("503", "an error of its own"),
        ("drop", "the connection failed"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub: HubServer, folder: Path, status: str, message: str) -> None:
    hub.faults.append(Fault("POST", "/commit/", status, times=None))
    with pytest.raises(PushError, match=f"upload and commit.*{message}.*nothing was committed") as caught:
        push(folder, REPO)
    assert ("run again" in str(caught.value)) == (status not in ("401", "403", "404"))
    assert files(hub) == {}
    hub.faults.clear()
    push(folder, REPO)
    assert files(hub) == contents(folder)


def test_metadata_that_the_hub_refuses_is_reported(hub: HubServer, model: SuperSamModel) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        push(model, REPO, card="---\n[\n---\n# Broken\n", tags=["a"])
    assert hub.requests == []


def test_merged_metadata() -> None:
    old = """---
license: mit
tags: [a]
model-index:
- name: old
  results:
  - task: {type: mask-generation}
    dataset: {type: nuclei, name: Nuclei}
    metrics:
    - {type: miou, value: 0.1, name: mIoU}
    - {type: dice, value: 0.5, name: Dice}
---
Text.
"""
    new = old.replace("old", "new").replace("0.1", "0.2").replace("license: mit", "license: apache-2.0")
    new = (
        new.replace("tags: [a]", "tags: [b, a]")
        .replace("Text", "Other")
        .replace("    - {type: dice, value: 0.5, name: Dice}\n", "")
    )
    merged = merged_readme(old, new)
    card = ModelCard(merged)
    assert card.text == "Text.\n"
    assert (card.data.license, card.data.tags, card.data.model_name) == ("apache-2.0", ["a", "b"], "new")
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"miou": 0.2, "dice": 0.5}
    assert merged_readme(merged, new) == merged
    # what the Hub's own form writes is no text
    assert ModelCard(merged_readme("---\nlicense: mit\n---\n", new)).text.strip() == "Other."
    assert ModelCard(merged_readme("Just words.\n", new)).text.strip() == "Just words."
    with pytest.raises(ValueError, match="the repository's README.md cannot be read"):
        merged_readme("---\n[\n---\n", new)


def test_the_command_pushes_a_folder(
    hub: HubServer, folder: Path, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert main(["push", str(folder), REPO, "--private", "--tags", "one", "two", "--commit_message", "Mine"]) == 0
    assert f"/{REPO}/commit/" in capsys.readouterr().out
    assert titles(hub)[0] == "Mine"
    found = files(hub)
    assert ModelCard(found.pop("README.md").decode()).data.tags == ["supersam", "pruning", "one", "two"]
    assert found == {name: data for name, data in contents(folder).items() if name != "README.md"}
    arguments = ["push", str(folder), REPO, "--max_shard_size", "200KB", "--output_dir", str(tmp_path / "kept")]
    assert main(arguments) == 0
    assert {n for n in files(hub) if n.startswith("model-")} == {p.name for p in (tmp_path / "kept").glob("model-*")}


def test_the_command_pushes_what_a_run_left(hub: HubServer, supersam_run: Path, capsys: pytest.CaptureFixture) -> None:
    supernet = SuperSamModel.from_pretrained(supersam_run / "supernet")
    for name in ("subnet", "supernet", "pareto-0"):
        assert main(["push", str(supersam_run), f"loopback/{name}", "--name", name]) == 0
        found = files(hub, repo_id=f"loopback/{name}")
        assert ("pareto.json" in found) == (name == "supernet")
        assert json.loads(found["search.json"])["format_version"] == 1
        assert f"loopback/{name}" in found["README.md"].decode()
        for path, data in found.items():
            if not path.endswith((".safetensors", ".png")):
                assert str(supersam_run.parent) not in data.decode(), path
    point = json.loads(files(hub, repo_id="loopback/supernet")["pareto.json"])["points"][0]
    expected = supernet.extract(Subnet.from_dict(point["subnet"])).state_dict()
    for options in ({"subnet": "pareto-0"}, {"max_params": point["params"]}):
        loaded = SuperSamModel.from_pretrained("loopback/supernet", **options).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    loaded = SuperSamModel.from_pretrained("loopback/pareto-0").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())
    capsys.readouterr()
    assert main(["push", str(supersam_run), REPO, "--name", "pareto-99"]) == 2
    assert "pareto-0" in capsys.readouterr().err


def test_the_command_explains_itself(capsys: pytest.CaptureFixture) -> None:
    assert main(["push", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--name", "--private", "--revision", "--create_pr", "--token", "--tags", "--stock", "--dry_run"):
        assert option in printed


def test_a_dry_run_sends_nothing(hub: HubServer, folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["push", str(folder), REPO, "--dry_run"]) == 0
    assert capsys.readouterr().out.strip() == (folder / "README.md").read_text().strip()
    assert main(["push", str(folder), REPO, "--dry_run", "--tags", "extra"]) == 0
    assert "- extra" in capsys.readouterr().out
    assert hub.requests == []


def test_a_name_without_namespace_is_completed_for_the_card(
    hub: HubServer, supersam_run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["push", str(supersam_run), "sam", "--dry_run"]) == 0
    assert f'from_pretrained("{REPO}"' in capsys.readouterr().out
    assert hub.repos == {}
    assert main(["push", str(supersam_run), "sam"]) == 0
    assert f'from_pretrained("{REPO}"' in files(hub)["README.md"].decode()
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(supersam_run), "sam", "--dry_run"]) == 2
    assert "give namespace/name" in capsys.readouterr().err


def test_the_command_keeps_the_folder_that_it_pushes(
    hub: HubServer, folder: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number, source in enumerate((folder, adapter)):
        kept = tmp_path / f"kept{number}"
        arguments = ["push", str(source), f"{REPO}{number}", "--output_dir", str(kept)]
        assert main(arguments) == 0
        assert contents(kept) == contents(source)
        assert main(arguments) == 2
        assert "is not an empty folder" in capsys.readouterr().err
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert main(["push", str(adapter), REPO, "--output_dir", str(kept)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "a/b/c"], "Repo id must be"),
        (["{folder}/missing", REPO], "There is no folder"),
        (["{folder}", REPO, "--name", "supernet"], "picks from a run's folder"),
        (["{folder}", REPO, "--stock"], "one `mlp_dim`"),
        (["{folder}", REPO, "--token", "hf_wrong"], "hf auth login"),
    ],
)
def test_the_command_ends_with_a_message(
    hub: HubServer, folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["push", *(argument.format(folder=folder) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("supersam-hf push: ")
    assert message in error
    assert "Traceback" not in error


def test_a_folders_own_card_loads_the_repository_that_it_is_pushed_to(
    hub: HubServer, model: SuperSamModel, tmp_path: Path
) -> None:
    folder = export(model, tmp_path / "sam")
    assert 'from_pretrained("."' in (folder / "README.md").read_text()
    push(folder, REPO, version="v1")
    card = files(hub)["README.md"].decode()
    assert f'from_pretrained("{REPO}", revision="v1", trust_remote_code=True)' in card
    assert "this folder" not in card
    push(folder, REPO, version="v1")
    assert len(titles(hub)) == 2  # still nobody's own words, so nothing has changed
