"""`supersam-hf prepare`: segmented or labelled images as a dataset of parquet files, here and on the Hub."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..fields import place, section
from .hub_options import add_hub_options, add_include
from .parser import CommandParser, section_of


if TYPE_CHECKING:
    from ..data.prepare import PrepareArguments


FORMATS = (
    *("auto", "instances", "canonical"),
    *("folder", "coco", "sa1b", "ade20k", "ade20k_instances", "stacks"),
)


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf prepare",
        description="Turn images with masks (SA-1B, COCO, ADE20K, TIFF stacks, folders of images and masks, id maps) "
        "or labels (a folder a class) into parquet files with a dataset card; push them to the Hub.",
    )
    parser.add_argument("source", type=place, nargs="?", metavar="SOURCE", help="local path, or dataset id on the Hub")
    parser.add_argument(
        "--output_dir", type=place, metavar="DIR", help="folder to write, new or empty; may be left out with --push"
    )
    parser.add_argument("--data.source", type=place, metavar="SOURCE", help="the same, as recipes have it")
    parser.add_argument("--task", choices=("segmentation", "classification"), help="unless given: what the source has")
    parser.add_argument("--data.format", choices=FORMATS, help="layout of a source with masks (auto)")
    parser.add_argument("--data.patch_size", type=int, metavar="PX", help="cut images with masks into square patches")
    parser.add_argument(
        "--data.merge_objects", action="store_true", default=None, help="all objects of an image or patch as one mask"
    )
    parser.add_argument(
        "--data.on_error",
        choices=("raise", "skip"),
        help="at what cannot be read (raise)",
    )
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="only these (all that there are)")
    parser.add_argument("--max_shard_size", default="500MB", metavar="SIZE", help="most of a parquet file (500MB)")
    parser.add_argument("--license", help="the Hub's id of the license, for the card: cc-by-4.0, cc0-1.0, ...")
    parser.add_argument("--data.config_name", help="configuration of a dataset on the Hub that has several")
    parser.add_argument(
        "--data.columns",
        nargs="+",
        metavar="NAME=COLUMN",
        help="columns of a table by what they hold: image=img",
    )
    parser.add_argument("--data.image_column", help="column of the images, where a labelled dataset has several")
    parser.add_argument("--data.label_column", help="column of the labels, where it is not the only ClassLabel")
    parser.add_argument(
        "--data.label_names", nargs="+", metavar="NAME", help="names of the classes, where labels are numbers"
    )
    hub = parser.add_argument_group("on the Hub")
    hub.add_argument("--push", metavar="REPO_ID", help="name or namespace/name of the dataset to push to")
    add_hub_options(hub)
    add_include(hub)
    hub.add_argument("--dry_run", action="store_true", help="send nothing: write the folder, list what is sent")
    return parser


def main(argv: list[str]) -> int:
    """Prepares, and pushes where that is asked for; returns the exit code."""
    values = vars(parser().parse_args(argv))
    output_dir = values.pop("output_dir")
    hub = {name: values.pop(name) for name in ("push", "private", "revision", "create_pr", "token", "include")}
    hub["dry_run"] = values.pop("dry_run")
    from datasets.exceptions import DatasetGenerationError
    from datasets.utils import logging as datasets_logging

    from ..data.prepare import skip_log_of
    from ..hub.errors import PushError

    datasets_logging.set_verbosity_error()
    try:
        args = prepare_arguments(values)
        if output_dir is None and hub["push"] is None:
            raise ValueError("`--output_dir` names the folder to write; only with `--push` it can be left out.")
        if hub["push"] is None and (hub["include"] or hub["dry_run"]):
            raise ValueError("`--include` and `--dry_run` are of a push: name its repository by `--push`.")
        with TemporaryDirectory() as scratch:
            folder = Path(output_dir or Path(scratch) / hub["push"].split("/")[-1])
            try:
                written_and_pushed(args, folder, **hub)
            finally:
                if output_dir is None:  # the list of them goes with the folder
                    for name, reason in skip_log_of(folder.resolve()).read().items():
                        print(f"left out: {name}: {reason}")
    except DatasetGenerationError as error:
        print(f"supersam-hf prepare: {args.source} cannot be read: {error.__cause__}", file=sys.stderr)
        return 2
    except (ValueError, OSError, PushError) as error:
        print(f"supersam-hf prepare: {error}", file=sys.stderr)
        return 2
    return 0


def _columns(given: list[str] | None) -> dict[str, str] | None:
    """Columns by what they hold, from "image=img"."""
    wrong = [part for part in given or () if "=" not in part]
    if wrong:
        raise ValueError(f"`--data.columns` takes NAME=COLUMN, as image=img; got {wrong[0]!r}.")
    return None if given is None else dict(part.split("=", 1) for part in given)


def prepare_arguments(values: dict[str, Any]) -> "PrepareArguments":
    """What to prepare, of the parsed values; an error names the option.

    Raises:
        ValueError: If there is no source, or two, or a value is none of those accepted.
    """
    from ..data.prepare import PrepareArguments

    data, source = section_of(values, "data"), values.pop("source")
    if "columns" in data:
        data["columns"] = _columns(data["columns"])
    if (source is None) == ("source" not in data):
        raise ValueError("give the source once: a path or a dataset id, as SOURCE or as `--data.source`.")
    with section("data"):
        return PrepareArguments(**values, **{"source": source, **data})


def written_and_pushed(
    args: "PrepareArguments", folder: Path, *, push: str | None, token: str | None, dry_run: bool, **options: Any
) -> None:
    """Writes the folder, unless it is there already and only its push is wanted; pushes it where that is asked for.

    Args:
        args ([`PrepareArguments`]): What to prepare.
        folder (`Path`): Where to.
        push (`str`, *optional*): Repository.
        token (`str`, *optional*): To push with.
        dry_run (`bool`): Push nothing, and list what would be sent.
        options: `private`, `revision`, `create_pr` and `include` of [`push_dataset`].
    """
    from ..data.dataset_card import BEGIN, END, renamed
    from ..data.prepare import is_prepared, prepare
    from ..files import check_empty, write_whole
    from ..hub.push_dataset import push_dataset

    there = push is not None and is_prepared(folder, args.recipe(folder))
    if not there:
        check_empty(folder)
    if push is not None and not (dry_run and "/" in push):
        push, token = signed_in(push, token)
    if there and push is not None:
        card = folder / "README.md"
        write_whole(card, renamed(card.read_text(encoding="utf-8"), push))
        print(f"{folder} was prepared from this before; it is pushed as it is")
    else:
        dataset = prepare(args, folder, push)
        told = ", ".join(f"{split} {len(rows):,}" for split, rows in dataset.items())
        print(f"prepared {told} images")
    if push is not None and dry_run:
        _tell(folder, options["include"])
    elif push is not None:
        options["private"] = options["private"] or None
        commit = push_dataset(folder, push, own_part=(BEGIN, END), token=token, **options)
        print(f"pushed to {commit.pr_url or commit.repo_url}")


def _tell(folder: Path, include: Sequence[str]) -> None:
    """What would be sent, and what stays."""
    from ..hub.push_dataset import dataset_files
    from ..hub.selection import left_out, left_out_line

    files = dataset_files(folder, include)
    for name, path in files.items():
        print(f"{path.stat().st_size:>12,} {name}", file=sys.stderr)
    stays = left_out(folder, files)
    if stays:
        print(left_out_line(folder, stays, whole=True), file=sys.stderr)
    print(f"nothing was sent ({len(files)} files)", file=sys.stderr)


def signed_in(repo_id: str, token: str | None) -> tuple[str, str]:
    """`namespace/name` to push to, and the token to push with, once the Hub has said that it knows it.

    Raises:
        ValueError: If `repo_id` is malformed.
        LocalTokenNotFoundError: If there is no token.
        PushError: If the Hub does not accept it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    from ..hub.commit import required_token
    from ..hub.errors import step_of

    validate_repo_id(repo_id)
    token = required_token(token)
    with step_of(repo_id, "log in", "Nothing was done."):
        account = HfApi(token=token).whoami()["name"]
    return (repo_id if "/" in repo_id else f"{account}/{repo_id}"), token
