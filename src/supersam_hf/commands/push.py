"""`supersam-hf push`: a run, or the folder of a model or an adapter, published on the Hub."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..fields import place
from .hub_options import add_hub_options
from .parser import CommandParser


NAMES = "subnet, finetuned, supernet, largest, smallest, pareto-0 to pareto-N, searched, adapter, segmenter"


def parser() -> CommandParser:
    """Its arguments."""
    parser = CommandParser(
        prog="supersam-hf push",
        description="Publish a run's subnet, supernet, Pareto points or adapter on the Hub, with its model card. "
        "One commit; a README.md that somebody has written there keeps its text.",
    )
    parser.add_argument("source", type=place, metavar="RUN_OR_FOLDER", help="folder of a run, a model or an adapter")
    parser.add_argument("repo_id", metavar="REPO_ID", help="name or namespace/name")
    parser.add_argument("--name", help=f"what of a run: {NAMES} (subnet; of an adapt run, adapter)")
    add_hub_options(parser)
    parser.add_argument("--commit_message", help="of the commit")
    parser.add_argument("--tags", nargs="+", metavar="TAG", help="added to the model card's")
    parser.add_argument("--stock", action="store_true", help="a SAM of equally wide layers as transformers' SamModel")
    parser.add_argument("--max_shard_size", metavar="SIZE", help="split larger weights over several files (5GB)")
    parser.add_argument("--output_dir", type=place, metavar="DIR", help="keep the exported folder here as well")
    parser.add_argument("--dry_run", action="store_true", help="send nothing: write the folder, print the model card")
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
    from ..hub import push
    from ..hub.contents import prepared

    with TemporaryDirectory() as scratch:
        target = Path(args.output_dir or Path(scratch) / "model")
        source, options, version = _source(args)
        folder = prepared(source, target, options, {"repo_id": args.repo_id, "revision": args.revision})
        if args.output_dir is not None and folder.resolve() != target.resolve():
            _keep(folder, target)
        if args.dry_run:
            _print_contents(folder, args.tags or (), args.repo_id, version or args.revision)
            return
        commit = push(
            folder,
            args.repo_id,
            private=args.private or None,
            revision=args.revision,
            create_pr=args.create_pr,
            version=version,
            token=args.token,
            commit_message=args.commit_message,
            tags=args.tags,
        )
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
    if args.name not in (None, "segmenter"):
        raise ValueError(f"`--name` is {args.name!r}; a run of `supersam-hf segment` has its segmenter only.")
    results = folder / "results.json"
    pinned = args.revision is None and not args.create_pr and results.is_file()
    weights = json.loads(results.read_text(encoding="utf-8"))["weights"][:8] if pinned else None
    return folder / "segmenter", options, None if weights is None else f"weights-{weights}"


def _keep(folder: Path, target: Path) -> None:
    """A copy of the files that are published of a folder that is complete as it lies."""
    from ..files import check_empty
    from ..hub.contents import files_of

    check_empty(target)
    for name, path in files_of(folder).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _print_contents(folder: Path, tags: Sequence[str], repo_id: str, revision: str | None) -> None:
    from ..hub.contents import files_of
    from ..hub.push import Upload

    print(Upload(folder, tags, repo_id, revision).card)
    files = files_of(folder)
    for name, path in files.items():
        print(f"{path.stat().st_size:>12,} {name}", file=sys.stderr)
    print(f"nothing was sent ({len(files)} files)", file=sys.stderr)
