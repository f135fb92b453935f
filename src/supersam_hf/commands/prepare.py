"""`supersam-hf prepare`: segmented or labelled images as a dataset of parquet files, here and on the Hub."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import DatasetDict


def parser() -> argparse.ArgumentParser:
    """Its arguments."""
    parser = argparse.ArgumentParser(
        prog="supersam-hf prepare",
        description="Turn images with masks (COCO layout, folders of images and masks, id maps) or labels (a folder a "
        "class) into parquet files with a dataset card, which can be streamed; push them to the Hub.",
    )
    parser.add_argument("source", metavar="SOURCE", help="local path, or dataset id on the Hub")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder to write, new or empty")
    parser.add_argument("--task", choices=("segmentation", "classification"), help="unless given: what the source has")
    formats = ("auto", "coco", "folder", "instances", "canonical")
    parser.add_argument("--format", choices=formats, default="auto", help="layout of a source with masks (auto)")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (all that there are)")
    parser.add_argument("--max_shard_size", default="500MB", metavar="SIZE", help="most of a parquet file (500MB)")
    parser.add_argument("--license", help="the Hub's id of the license, for the card: cc-by-4.0, cc0-1.0, ...")
    parser.add_argument("--config_name", help="configuration of a dataset on the Hub that has several")
    parser.add_argument("--image_column", help="column of the images, where a labelled dataset has several")
    parser.add_argument("--label_column", help="column of the labels, where it is not the only ClassLabel")
    parser.add_argument(
        "--label_names", nargs="+", metavar="NAME", help="names of the classes, where labels are numbers"
    )
    hub = parser.add_argument_group("on the Hub")
    hub.add_argument("--push", metavar="REPO_ID", help="name or namespace/name of the dataset to push to")
    hub.add_argument("--private", action="store_true", help="make a new repository private")
    hub.add_argument("--revision", help="branch to commit to, made if need be (main)")
    hub.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    hub.add_argument("--token", help="with write access (that of `hf auth login`, or HF_TOKEN)")
    return parser


def main(argv: list[str]) -> int:
    """Prepares, and pushes where that is asked for; returns the exit code."""
    values = vars(parser().parse_args(argv))
    output_dir = Path(values.pop("output_dir"))
    hub = {name: values.pop(name) for name in ("push", "private", "revision", "create_pr", "token")}
    from datasets.exceptions import DatasetGenerationError
    from datasets.utils import logging as datasets_logging

    from ..data.prepare import PrepareArguments, check_empty, prepare
    from ..hub.errors import PushError

    datasets_logging.set_verbosity_error()
    try:
        args = PrepareArguments(**values)
        check_empty(output_dir)
        if hub["push"] is not None:
            hub["token"] = checked_token(hub["push"], hub["token"])
        dataset = prepare(args, output_dir, hub["push"])
        told = ", ".join(f"{split} {rows.num_rows:,}" for split, rows in dataset.items())
        print(f"wrote {output_dir}: {told} images")
        if hub["push"] is not None:
            card = (output_dir / "README.md").read_text(encoding="utf-8")
            print(f"pushed to {push_dataset(dataset, card, max_shard_size=args.max_shard_size, **hub)}")
    except (ValueError, OSError, PushError, DatasetGenerationError) as error:
        if isinstance(error, DatasetGenerationError):
            print(f"supersam-hf prepare: {args.source} cannot be read: {error.__cause__}", file=sys.stderr)
            return 2
        print(f"supersam-hf prepare: {error}", file=sys.stderr)
        return 2
    return 0


def checked_token(repo_id: str, token: str | None) -> str:
    """The token to push with, once the Hub has said that it knows it; `repo_id` must be one.

    Raises:
        ValueError: If `repo_id` is malformed.
        LocalTokenNotFoundError: If there is no token.
        PushError: If the Hub does not accept it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    from ..hub.errors import step_of
    from ..hub.push import required_token

    validate_repo_id(repo_id)
    token = required_token(token)
    with step_of(repo_id, "log in", "Nothing was done."):
        HfApi(token=token).whoami()
    return token


def push_dataset(
    dataset: "DatasetDict", card: str, *, push: str, token: str, max_shard_size: str, **options: Any
) -> str:
    """Pushes the data as datasets does, in one commit, then the card in another; returns where it can be seen.

    Args:
        dataset (`datasets.DatasetDict`): Of [`prepare`].
        card (`str`): README.md of [`prepare`]. A text that is there stays.
        push (`str`): Repository.
        options: `private`, `revision` and `create_pr`, as `push_to_hub` takes them.

    Raises:
        PushError: If the Hub refuses, or the connection is lost.
    """
    from huggingface_hub import HfApi, hf_hub_download

    from ..data.dataset_card import merged_card
    from ..hub.errors import step_of

    private = options.pop("private") or None
    with step_of(push, "push the data", "No commit was made, or the whole one."):
        commit = dataset.push_to_hub(push, token=token, private=private, max_shard_size=max_shard_size, **options)
    repo_id, revision = commit.repo_url.repo_id, commit.pr_revision or options["revision"]
    with step_of(repo_id, "push the card", "The data is there, with the metadata that it needs to be loaded."):
        readme = hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision, token=token)
        merged = merged_card(Path(readme).read_text(encoding="utf-8"), card)
        HfApi(token=token).upload_file(
            path_or_fileobj=merged.encode("utf-8"),
            path_in_repo="README.md",
            repo_id=repo_id,
            repo_type="dataset",
            revision=revision,
            commit_message="Upload dataset card",
        )
    return commit.pr_url or str(commit.repo_url)
