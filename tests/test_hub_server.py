"""The Hub on loopback with the real clients: what they push comes back, and what it refuses they report."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import datasets
import httpx2
import pytest
import torch
from conftest import tiny_classifier
from hub_server import READ_TOKEN, WRITE_TOKEN, Fault, HubServer
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
    snapshot_download,
    upload_folder,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session
from transformers import AutoModelForImageClassification, ViTForImageClassification, ViTImageProcessorPil


REPO = "loopback/things"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three regular files and a large binary one."""
    found = tmp_path / "folder"
    (found / "sub" / "deep").mkdir(parents=True)
    (found / "config.json").write_text('{"a": 1}')
    (found / "sub" / "deep" / "note.txt").write_text("note")
    (found / "README.md").write_text("---\nlicense: mit\npipeline_tag: mask-generation\n---\n# Things\n")
    (found / "model.safetensors").write_bytes(os.urandom(300_000))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("part_bytes", [None, 100_000])
def test_a_folder_pushed_comes_back(hub: HubServer, folder: Path, tmp_path: Path, part_bytes: int | None) -> None:
    hub.part_bytes = part_bytes
    api = HfApi()
    assert api.create_repo(REPO).repo_id == REPO
    commit = upload_folder(repo_id=REPO, folder_path=folder, commit_message="all of it")
    head, first = hub.repos["models", REPO].history()
    assert (head.oid, head.title, first.title) == (commit.oid, "all of it", "initial commit")
    assert hub.repos["models", REPO].files() == contents(folder)
    assert head.files["model.safetensors"].lfs
    assert not head.files["config.json"].lfs
    puts = [path for method, path in hub.requests if method == "PUT"]
    assert len(puts) == (1 if part_bytes is None else 3)

    there = Path(snapshot_download(REPO, local_dir=tmp_path / "back"))
    assert contents(there) == {**contents(folder), ".gitattributes": (there / ".gitattributes").read_bytes()}
    assert Path(hf_hub_download(REPO, "sub/deep/note.txt")).read_text() == "note"
    found = api.model_info(REPO, files_metadata=True)
    assert (found.sha, found.pipeline_tag, found.card_data.license) == (commit.oid, "mask-generation", "mit")
    assert {file.rfilename: file.size for file in found.siblings}["model.safetensors"] == 300_000
    assert sorted(entry.path for entry in api.list_repo_tree(REPO, "sub", recursive=True)) == [
        "sub/deep",
        "sub/deep/note.txt",
    ]
    assert [info.path for info in api.get_paths_info(REPO, ["config.json", "sub", "none"])] == ["config.json", "sub"]
    assert [entry.commit_id for entry in api.list_repo_commits(REPO)] == [head.oid, first.oid]

    upload_folder(repo_id=REPO, folder_path=folder)
    assert len(hub.repos["models", REPO].history()) == 2, "nothing changed: no commit"


def test_a_download_goes_on_where_it_was_cut(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    HfApi().create_repo(REPO)
    upload_folder(repo_id=REPO, folder_path=folder)
    fault = Fault("GET", "resolve/.*safetensors", "truncate", times=2)
    hub.faults.append(fault)
    path = hf_hub_download(REPO, "model.safetensors")
    assert Path(path).read_bytes() == (folder / "model.safetensors").read_bytes()
    assert fault.used == 2


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("bytes=2-4", b"cde"), ("bytes=7-", b"hij"), ("bytes=-3", b"hij"), ("bytes=4-99", b"efghij")],
)
def test_ranges(hub: HubServer, asked: str, expected: bytes) -> None:
    api = HfApi()
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b"abcdefghij", path_in_repo="letters.txt", repo_id=REPO)
    request = urllib.request.Request(f"{hub.url}/{REPO}/resolve/main/letters.txt", headers={"Range": asked})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        assert (answer.status, answer.read()) == (206, expected)


def test_branches_tags_and_pull_requests(hub: HubServer) -> None:
    api = HfApi()
    api.create_repo(REPO)
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=REPO)
    api.create_tag(REPO, tag="v1")
    api.create_branch(REPO, branch="next/one")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=REPO, revision="next/one")
    pull = api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id=REPO, create_pr=True)
    assert (pull.pr_revision, pull.pr_num) == ("refs/pr/1", 1)
    wanted = {"main": "1", "v1": "1", "next/one": "2", "refs/pr/1": "3", first.oid: "1"}
    assert {name: Path(hf_hub_download(REPO, "a.txt", revision=name)).read_text() for name in wanted} == wanted
    api.upload_file(path_or_fileobj=b"4", path_in_repo="a.txt", repo_id=REPO, revision="refs/pr/1")
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "next/one"}
    assert ([tag.name for tag in refs.tags], [pr.ref for pr in refs.pull_requests]) == (["v1"], ["refs/pr/1"])
    assert hub.repos["models", REPO].files("refs/pr/1") == {"a.txt": b"4"}
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(REPO, tag="v1")
    api.delete_tag(REPO, tag="v1")
    api.delete_branch(REPO, branch="next/one")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "a.txt", revision="v1")


def test_a_commit_deletes_and_races_are_refused(hub: HubServer, folder: Path) -> None:
    api = HfApi()
    api.create_repo(REPO)
    before = upload_folder(repo_id=REPO, folder_path=folder)
    operations = [CommitOperationDelete("sub/"), CommitOperationDelete("README.md")]
    after = api.create_commit(REPO, operations=operations, commit_message="less", parent_commit=before.oid)
    assert set(hub.repos["models", REPO].files()) == {"config.json", "model.safetensors"}
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(
            REPO,
            operations=[CommitOperationAdd("b.txt", b"b")],
            commit_message="late",
            parent_commit=before.oid,
        )
    with pytest.raises(EntryNotFoundError):
        api.delete_file("none.txt", REPO)
    assert hub.repos["models", REPO].history()[0].oid == after.oid


def test_a_commit_is_whole_or_not_at_all(hub: HubServer, folder: Path) -> None:
    """LFS objects that never arrived, or not whole, are not committed, nor what was to come with them."""
    api = HfApi()
    api.create_repo(REPO)
    lines = [
        {"key": "header", "value": {"summary": "half", "description": ""}},
        {"key": "file", "value": {"path": "a.txt", "content": "YQ==", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "b.bin", "algo": "sha256", "oid": "0" * 64, "size": 3}},
    ]
    body = "\n".join(json.dumps(line) for line in lines).encode()
    headers = {"Authorization": f"Bearer {WRITE_TOKEN}"}
    answer = get_session().post(f"{hub.url}/api/models/{REPO}/commit/main", content=body, headers=headers)
    assert answer.status_code == 400
    assert hub.repos["models", REPO].files() == {}
    wrong = get_session().put(f"{hub.url}/lfs-storage/models/{REPO}/{'0' * 64}", content=b"not it")
    assert wrong.status_code == 400


def test_tokens(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = HfApi()
    assert api.whoami()["name"] == "loopback"
    api.create_repo(REPO, private=True)
    upload_folder(repo_id=REPO, folder_path=folder)
    assert Path(hf_hub_download(REPO, "config.json", token=READ_TOKEN)).read_text() == '{"a": 1}'
    with pytest.raises(HfHubHTTPError, match="403.*write token"):
        api.upload_file(path_or_fileobj=b"", path_in_repo="c", repo_id=REPO, token=READ_TOKEN)
    for repo_id in (REPO, "loopback/none"):  # alike: whether a private one exists is not told
        with pytest.raises(RepositoryNotFoundError, match="401"):
            api.model_info(repo_id, token=False)
    with pytest.raises(RepositoryNotFoundError, match="404"):
        api.model_info("loopback/none")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info(REPO, token="hf_unknown")
    with pytest.raises(HfHubHTTPError, match="401"):
        api.create_repo("loopback/more", token=False)
    hub.forbidden.add("others")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("others/more")
    api.update_repo_settings(REPO, private=False)
    assert api.model_info(REPO, token=False).private is False
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "none.json")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


ACTIONS = ("drop", "drop_after", "truncate", "truncate_answer", "500", "503", "429")
STEPS = {"preupload": "POST", "objects/batch": "POST", "lfs-storage/.*[0-9a-f]$": "PUT", "/verify": "POST"}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("path", STEPS)
def test_clients_try_again_and_end_whole(hub: HubServer, folder: Path, path: str, action: str) -> None:
    HfApi().create_repo(REPO)
    fault = Fault(STEPS[path], path, action)
    hub.faults.append(fault)
    upload_folder(repo_id=REPO, folder_path=folder)
    assert fault.used == 1
    assert hub.repos["models", REPO].files() == contents(folder)


@pytest.mark.parametrize("action", ["drop", "drop_after", "truncate", "500", "401", "403"])
def test_a_commit_that_fails_is_told_and_never_half_there(hub: HubServer, folder: Path, action: str) -> None:
    HfApi().create_repo(REPO)
    fault = Fault("POST", "/commit/main", action, times=None)
    hub.faults.append(fault)
    with pytest.raises((HfHubHTTPError, httpx2.HTTPError)):
        upload_folder(repo_id=REPO, folder_path=folder)
    assert hub.repos["models", REPO].files() in ({}, contents(folder))
    hub.faults.clear()
    upload_folder(repo_id=REPO, folder_path=folder)
    assert hub.repos["models", REPO].files() == contents(folder)


def test_faults_are_counted() -> None:
    fault = Fault("GET", "/a", "500", times=2, after=1)
    assert [fault.strikes(*asked) for asked in [("PUT", "/a"), ("GET", "/b")]] == [False, False]
    assert [fault.strikes("GET", "/a/b") for _ in range(5)] == [False, True, True, False, False]
    assert (fault.seen, fault.used) == (5, 2)


def test_transformers_models_and_cards(hub: HubServer) -> None:
    model = tiny_classifier("vit")
    model.push_to_hub(REPO, commit_message="a ViT", tags=["tiny"])
    ViTImageProcessorPil(size={"height": 32, "width": 32}).push_to_hub(REPO)
    loaded = AutoModelForImageClassification.from_pretrained(REPO)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images).logits, model(images).logits)
    card = ModelCard.load(REPO)
    assert "tiny" in card.data.tags
    card.data.license = "apache-2.0"
    card.push_to_hub(REPO)
    assert ModelCard.load(REPO).data.license == "apache-2.0"
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        HfApi().upload_file(path_or_fileobj=b"---\nlicense: [mit\n---\n", path_in_repo="README.md", repo_id=REPO)
    with pytest.raises(OSError, match="not a valid model identifier|does not exist|not a local folder"):
        ViTForImageClassification.from_pretrained("loopback/none")


def test_datasets_of_several_shards_streamed_too(hub: HubServer) -> None:
    made = datasets.Dataset.from_dict({"x": list(range(10)), "label": [str(n) for n in range(10)]})
    datasets.DatasetDict({"train": made}).push_to_hub("loopback/data", num_shards={"train": 2})
    files = hub.repos["datasets", "loopback/data"].files()
    assert sorted(files) == ["README.md", *(f"data/train-0000{n}-of-00002.parquet" for n in range(2))]
    assert datasets.load_dataset("loopback/data", split="train")["x"] == made["x"]
    stream = datasets.load_dataset("loopback/data", split="train", streaming=True)
    assert [row["label"] for row in stream] == made["label"]


def test_adapters(hub: HubServer) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    tiny_classifier("vit").push_to_hub("loopback/base")
    base = ViTForImageClassification.from_pretrained("loopback/base")
    adapted = get_peft_model(
        base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    adapted.push_to_hub("loopback/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.repos["models", "loopback/adapter"].files())
    images = torch.randn(2, 3, 32, 32)
    fresh = ViTForImageClassification.from_pretrained("loopback/base")
    loaded = PeftModel.from_pretrained(fresh, "loopback/adapter").eval()
    assert torch.equal(loaded(images).logits, adapted(images).logits)


CLIENT = """
import sys
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("loopback/vit").eval()
print(model(torch.ones(1, 3, 32, 32)).logits.sum().item())
HfApi().upload_file(path_or_fileobj=b"seen", path_in_repo="seen.txt", repo_id="loopback/vit")
"""


def test_clients_in_processes_of_their_own(hub: HubServer, bare_python: str, tmp_path: Path) -> None:
    model = tiny_classifier("vit")
    model.push_to_hub("loopback/vit")
    env = hub.env(tmp_path / "another_home")
    done = subprocess.run([bare_python, "-c", CLIENT], env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) == model(torch.ones(1, 3, 32, 32)).logits.sum().item()
    assert hub.repos["models", "loopback/vit"].files()["seen.txt"] == b"seen"
