"""`supersam-hf push`: a run, or the folder of a model or an adapter, published on the Hub."""

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..fields import place
from .hub_options import add_hub_options, add_include
from .parser import CommandParser


if TYPE_CHECKING:
    from ..hub.contents import Contents
    from ..hub.push import Upload

NAMES = (
    "subnet (recovered if it was), found, finetuned, supernet, "
    "largest, smallest, pareto-0 to pareto-N, searched, pruned, adapter, segmenter"
)


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf push",
        description="Publish a run's subnet, supernet, Pareto points or adapter on the Hub, with its model card. "
        "One commit; a README.md that somebody has written there keeps its text. Of a folder, only what an export "
        "writes is sent.",
    )
    parser.add_argument("source", type=place, metavar="RUN_OR_FOLDER", help="folder of a run, a model or an adapter")
    parser.add_argument("repo_id", metavar="REPO_ID", help="name or namespace/name")
    parser.add_argument("--name", help=f"what of a run: {NAMES} (subnet; of an adapt run, adapter)")
    add_hub_options(parser)
    add_include(parser)
    parser.add_argument("--commit_message", help="of the commit")
    parser.add_argument("--tags", nargs="+", metavar="TAG", help="added to the model card's")
    parser.add_argument("--stock", action="store_true", help="a SAM of equally wide layers as transformers' SamModel")
    parser.add_argument("--max_shard_size", metavar="SIZE", help="split larger weights over several files (5GB)")
    parser.add_argument("--output_dir", type=place, metavar="DIR", help="keep the exported folder here as well")
    parser.add_argument(
        "--dry_run", action="store_true", help="send nothing: print the model card, list what is sent and what is not"
    )
    return parser


def main(argv: list[str]) -> int:
    """Pushes, or writes what would be pushed; returns the exit code."""
    args = parser().parse_args(argv)
    from huggingface_hub.utils import validate_repo_id

    from ..hub import PushError

    try:
        validate_repo_id(args.repo_id)
        _log_in(args)
        _push(args)
    except (ValueError, OSError, PushError) as error:
        print(f"supersam-hf push: {error}", file=sys.stderr)
        return 2
    return 0


def _log_in(args: argparse.Namespace) -> None:
    """The token, and the namespace that the card is to name; a dry run needs neither if the name is whole."""
    if args.dry_run and "/" in args.repo_id:
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    from ..hub.commit import full_id, required_token

    try:
        args.token = required_token(args.token)
    except LocalTokenNotFoundError as error:
        if args.dry_run:
            message = f"{args.repo_id!r} has no namespace, and no token tells it: give namespace/name."
            raise ValueError(message) from error
        raise
    args.repo_id = full_id(HfApi(token=args.token), args.repo_id)


def _push(args: argparse.Namespace) -> None:
    from huggingface_hub import HfApi

    from ..hub.commit import Target
    from ..hub.contents import contents
    from ..hub.push import Upload

    with TemporaryDirectory() as scratch:
        target = Path(args.output_dir or Path(scratch) / "model")
        model, options, version = _source(args)
        where = {"repo_id": args.repo_id, "revision": args.revision}
        found = contents(model, target, options, where, source=Path(args.source), include=args.include)
        if args.output_dir is not None and found.folder.resolve() != target.resolve():
            _keep(found, target)
        upload = Upload(found, args.tags or (), args.repo_id, version or args.revision)
        _tell(args, found, upload)
        if args.dry_run:
            return
        to = Target(
            HfApi(token=args.token), args.repo_id, "model", args.private or None, args.revision, args.create_pr
        )
        commit = upload.send(to, version, commit_message=args.commit_message or f"Upload {upload.kind}")
    print(f"pushed to {commit.pr_url or commit.commit_url}")


def _source(args: argparse.Namespace) -> tuple[Any, dict[str, Any], str | None]:
    """What to publish, how it is exported, and the tag that its card pins."""
    options: dict[str, Any] = {"stock": True} if args.stock else {}
    if args.max_shard_size is not None:
        options["max_shard_size"] = args.max_shard_size
    folder = Path(args.source)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if (folder / "segmenter" / "config.json").is_file():
        return _segmenter(folder, args, options)
    if not (folder / "start.json").is_file():
        if args.name is not None:
            raise ValueError(f"`--name` picks from a run's folder; {folder} is none (it has no start.json).")
        return folder, options, None
    from ..pipeline.publish import publication

    only_adapted = (folder / "adapt.json").is_file() and not (folder / "search.json").is_file()
    name = args.name or ("adapter" if only_adapted else "subnet")
    # A pull request gets no tag: its commit is not the one that will be merged.
    revision = args.revision or ("main" if args.create_pr else None)
    found = publication(folder, name, repo_id=args.repo_id, revision=revision, stock=args.stock)
    return found.model, {**found.export_arguments(), **options}, found.version


def _segmenter(
    folder: Path, args: argparse.Namespace, options: dict[str, Any]
) -> tuple[Path, dict[str, Any], str | None]:
    """Of a run of `supersam-hf segment`: its folder lies as it is published."""
    from ..files import check_links, read_json

    check_links(folder)
    if args.name not in (None, "segmenter"):
        raise ValueError(f"`--name` is {args.name!r}; a run of `supersam-hf segment` has its segmenter only.")
    results = folder / "results.json"
    pinned = args.revision is None and not args.create_pr and results.is_file()
    weights = read_json(results)["weights"][:8] if pinned else None
    return folder / "segmenter", options, None if weights is None else f"weights-{weights}"


def _keep(found: "Contents", target: Path) -> None:
    """A copy of what is published of a folder that is complete as it lies."""
    from ..files import check_empty

    check_empty(target)
    for name, path in found.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _tell(args: argparse.Namespace, found: "Contents", upload: "Upload") -> None:
    """What stays; of a dry run first the card, and what would be sent."""
    from ..hub.selection import left_out_line

    if args.dry_run:
        print(upload.card)
        for name, path in found.files.items():
            print(f"{path.stat().st_size:>12,} {name}", file=sys.stderr)
    if found.left_out:
        print(left_out_line(Path(args.source), found.left_out, whole=args.dry_run), file=sys.stderr)
    if args.dry_run:
        print(f"nothing was sent ({len(found.files)} files)", file=sys.stderr)
