"""The ways in that `attack.py` tries, by name; the first line of each docstring is what it stands for in the table."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attack_inputs as inputs
from attack_place import MARKER, GotIn, Place, Skipped


Way = Callable[[Place], None]
WAYS: dict[str, Way] = {}
CONTROLS: dict[str, Way] = {}
# Those that take a second within one process, and need no bounds: a fast test runs them.
QUICK: list[str] = []

PRETRAIN = {
    "data.source": "shapes",
    "data.shapes_image_size": 64,
    "data.shapes_train_images": 8,
    "data.shapes_eval_images": 2,
    "data.max_objects": 2,
    "data.box_padding": 3,
    "data.batch_size": 4,
    "holdout_images": 2,
    "pretrain.image_size": 64,
    "pretrain.hidden_size": 48,
    "pretrain.num_hidden_layers": 2,
    "pretrain.num_attention_heads": 3,
    "pretrain.decoder_size": 32,
    "pretrain.max_steps": 4,
    "pretrain.save_steps": 2,
    "pretrain.warmup_steps": 1,
}
PICKLES = ("custom_checkpoint_0.pkl", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")
REPO = "loopback/pushed"
YES = "y\n" * 9


def way(function: Way) -> Way:
    WAYS[function.__name__] = function
    return function


def quick(function: Way) -> Way:
    QUICK.append(function.__name__)
    return way(function)


def options(values: dict[str, Any]) -> list[str]:
    return [str(word) for key, value in values.items() for word in (f"--{key}", value)]


def pretrain(place: Place, folder: Path, **env: str) -> None:
    place.supersam("pretrain", *options(PRETRAIN), "--output_dir", folder, **env)


def prepare(place: Place, source: Path, *more: str) -> None:
    place.supersam("prepare", source, "--output_dir", place.work / "prepared", *more)


# What shows that the package works here: without these, every way would be "refused".


def control_prepare(place: Place) -> None:
    """a source without a trick is prepared"""
    prepare(place, inputs.coco(place.work / "coco", []))
    if not list((place.work / "prepared" / "data").glob("*.parquet")):
        raise GotIn("nothing was prepared")


def control_push(place: Place) -> None:
    """a model is pushed"""
    with hub(place) as (server, env):
        place.supersam("push", inputs.exported(place.work / "model"), REPO, **env)
        if "model.safetensors" not in sent(server, "models"):
            raise GotIn("nothing was pushed")


CONTROLS |= {"control_prepare": control_prepare, "control_push": control_push}


# A run, a model or a recipe from elsewhere that brings code.


def resume(place: Place, name: str, *, zipped: bool) -> None:
    run, made = place.work / "run", place.root.parent / "run-to-resume"
    if not made.exists():  # once for all ways of this kind
        pretrain(place, made)
    shutil.copytree(made, run)
    shutil.rmtree(run / "pretrained", ignore_errors=True)  # as if it had been stopped before its end
    for record in run.glob("stages/pretrain.json"):
        record.unlink()
    if not inputs.armed_checkpoints(run, name, place.canary, zipped=zipped):
        raise Skipped("the run left no checkpoint")
    pretrain(place, run)


for _name in PICKLES:
    for _zipped in (False, True):
        _way = partial(resume, name=_name, zipped=_zipped)
        _way.__doc__ = f"resume a run whose {_name} is a pickle with code ({'torch.save' if _zipped else 'plain'})"
        WAYS[f"resume_{_name.split('.')[0]}{'_zipped' * _zipped}"] = _way


@way
def resume_linked_log(place: Place) -> None:
    """resume a run whose logs, records and figures are links to others' files"""
    names = ("start.json.tmp", "run.json.tmp", "recipe.yaml", "training.png", "pretrain/log.jsonl", "run.json")
    for number in range(1, len(names) + 1):  # one more each time: what refuses one must not hide the others
        run = place.work / f"run-{number}"
        (run / "pretrain").mkdir(parents=True)
        for name in names[:number]:
            (run / name).symlink_to(place.outside / "thesis" / "chapter.txt")
        pretrain(place, run)


@way
def pretrain_encoder(place: Place) -> None:
    """pretrain around an encoder whose repository brings code, with `y` piped in"""
    folder = inputs.code_repository(place.work / "encoder", place.canary)
    values = {**PRETRAIN, "pretrain.encoder": folder, "output_dir": place.work / "run"}
    place.supersam("pretrain", *options(values), stdin=YES)


@way
def model_with_code(place: Place) -> None:
    """run, classify, segment and export a model whose repository brings code, with `y` piped in"""
    folder = inputs.code_repository(place.work / "model", place.canary)
    for verb in (["evaluate"], ["ofb", "evaluate"], ["segment"]):
        output = place.work / "-".join(verb)
        place.supersam(*verb, "--model.name", folder, "--data.source", "shapes", "--output_dir", output, stdin=YES)
    place.supersam("export", folder, "--output_dir", place.work / "onnx", stdin=YES)


@quick
def convert_pickle(place: Place) -> None:
    """convert a .pth that is a pickle with code"""
    import torch

    torch.save({"state": inputs.Touch(place.canary)}, place.work / "sam.pth")
    place.supersam("convert", place.work / "sam.pth", place.work / "out")


# Data that reach for files outside of their source.


def coco_names(place: Place, names: list[str]) -> None:
    prepare(place, inputs.coco(place.work / "coco", names))


@way
def coco_parent(place: Place) -> None:
    """prepare COCO whose file_name goes up with ../"""
    coco_names(place, ["../../../outside/secret.png"])


@way
def coco_absolute(place: Place) -> None:
    """prepare COCO whose file_name is absolute"""
    coco_names(place, [str(place.secret)])


@way
def coco_link(place: Place) -> None:
    """prepare COCO one of whose images is a link to another's file"""
    root = inputs.coco(place.work / "coco", ["linked.png"])
    (root / "train" / "linked.png").symlink_to(place.secret)
    prepare(place, root)


@way
def coco_linked_folder(place: Place) -> None:
    """prepare COCO with a linked folder of others' images"""
    root = inputs.coco(place.work / "coco", ["more/secret.png"])
    (root / "train" / "more").symlink_to(place.outside)
    prepare(place, root)


@way
def parquet_path(place: Place) -> None:
    """prepare parquet with an image that is a path"""
    prepare(place, inputs.parquet(place.work / "table" / "train.parquet", place.secret))


@way
def class_folder_link(place: Place) -> None:
    """prepare a folder of classes with a linked picture"""
    root = place.work / "classes"
    for name in ("cat", "dog"):
        inputs.picture(root / name / "a.png")
    (root / "cat" / "b.png").symlink_to(place.secret)
    prepare(place, root)


@way
def masks_link(place: Place) -> None:
    """prepare images and masks with a linked picture"""
    root = inputs.pairs(place.work / "pairs")
    (root / "images" / "bad.png").symlink_to(place.secret)
    prepare(place, root)


@way
def sa1b_link(place: Place) -> None:
    """prepare SA-1B with a linked picture"""
    (place.work / "sa1b").mkdir()
    for stem in ("sa_1", "sa_2"):
        for name, content in inputs.sa1b_member(stem).items():
            (place.work / "sa1b" / name).write_bytes(content)
    (place.work / "sa1b" / "sa_2.jpg").unlink()
    (place.work / "sa1b" / "sa_2.jpg").symlink_to(place.secret)
    prepare(place, place.work / "sa1b")


@way
def sa1b_members(place: Place) -> None:
    """prepare a tar with members that go up, are absolute, or are links"""
    (place.work / "sa1b").mkdir()
    inputs.sa1b_tar(place.work / "sa1b" / "sa_000000.tar", place.outside, place.secret)
    prepare(place, place.work / "sa1b")


# Pushes of folders in which other things lie.


@contextmanager
def hub(place: Place) -> Iterator[tuple[Any, dict[str, str]]]:
    """A Hub on loopback that keeps what it is sent, and the settings that point there. Within a test, the test's."""
    from hub_server import HubServer

    if place.hub is not None:
        yield place.hub, {}
        return
    with HubServer() as server:
        yield server, server.settings(place.root / "hf")


def sent(server: Any, kind: str) -> dict[str, bytes]:
    repo = server.repos.get((kind, REPO))
    return {} if repo is None else {name: data for name, data in repo.files().items() if name != ".gitattributes"}


# What people keep beside their work. No pickle: for that alone a push was refused before.
LITTER = ("id_rsa", "notes.txt", ".env", "passport.png")


def litter(folder: Path, place: Place) -> None:
    """Puts it there, with links out of the folder."""
    for name in LITTER:
        (folder / name).write_bytes(MARKER)
    (folder / "linked.png").symlink_to(place.secret)
    (folder / "linked").symlink_to(place.outside)
    (folder / "keys").mkdir()
    (folder / "keys" / "deploy.pem").write_bytes(MARKER)


def pushed(place: Place, folder: Path, kind: str = "models", *argv: object) -> None:
    """Pushes and looks at what arrived."""
    with hub(place) as (server, env):
        place.arm()  # what lies there by now is the user's
        place.supersam(*(argv or ("push", folder, REPO)), stdin=YES, **env)
        for name, data in sent(server, kind).items():
            if MARKER in data or name in LITTER:
                raise GotIn(f"sent {name}")


@quick
def push_folder(place: Place) -> None:
    """push a model's folder in which keys, notes and links lie"""
    folder = inputs.exported(place.work / "model")
    litter(folder, place)
    pushed(place, folder)


@quick
def push_saved(place: Place) -> None:
    """push a folder of save_pretrained in which pictures lie"""
    folder = inputs.vit(place.work / "model")
    litter(folder, place)
    pushed(place, folder)


@quick
def push_linked_card(place: Place) -> None:
    """push a model's folder whose README.md and weights' index are links"""
    folder = inputs.exported(place.work / "model")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(place.outside / "secret.txt")
    (folder / "search.json").symlink_to(place.outside / "secret.txt")
    pushed(place, folder)


@quick
def push_adapter(place: Place) -> None:
    """push an adapter's folder in which keys, notes and links lie"""
    folder = inputs.adapter(place.work / "adapter")
    litter(folder, place)
    pushed(place, folder)


@way
def push_dataset(place: Place) -> None:
    """push a prepared dataset's folder in which keys, notes and links lie"""
    source, folder = inputs.coco(place.work / "coco", []), place.work / "prepared"
    prepare(place, source)
    litter(folder, place)
    pushed(place, folder, "datasets", "prepare", source, "--output_dir", folder, "--push", REPO)


@way
def push_code(place: Place) -> None:
    """push a folder of save_pretrained whose processor's config names code, with `y` piped in"""
    folder = inputs.exported(place.work / "model")
    for path in folder.glob("*.py"):  # so that it is loaded, and exported on the way
        path.unlink()
    inputs.code_repository(place.work / "code", place.canary)
    for name in ("preprocessor_config.json", "hostile.py"):
        shutil.copyfile(place.work / "code" / name, folder / name)
    pushed(place, folder)


@way
def push_linked_run(place: Place) -> None:
    """push a segmenter's run whose model is in a linked folder"""
    run, elsewhere = place.work / "run", inputs.exported(place.outside / "model")
    for name in ("README.md", "search.json"):
        (elsewhere / name).write_bytes(MARKER)
    run.mkdir()
    (run / "segmenter").symlink_to(elsewhere)
    pushed(place, run)


# What is written over.


@quick
def export_tmp(place: Place) -> None:
    """export beside a folder of the user's that ends in .tmp"""
    place.users_own(place.work / "model.tmp")
    place.arm()
    inputs.exported(place.work / "model")


@way
def onnx_tmp(place: Place) -> None:
    """export to ONNX beside a folder of the user's that ends in .tmp"""
    needs("onnx")
    place.users_own(place.work / "onnx.tmp")
    model = inputs.exported(place.work / "model")
    place.supersam("export", model, "--output_dir", place.work / "onnx", "--rounds", "1", "--num_images", "1")


@way
def run_tmp(place: Place) -> None:
    """pretrain in a folder where the user has a pretrained.tmp"""
    place.users_own(place.work / "run" / "pretrained.tmp")
    pretrain(place, place.work / "run")


@quick
def report_output(place: Place) -> None:
    """report over a file of the user's"""
    place.users_own(place.work / "thesis.html")
    place.users_own(place.work / "page.html.tmp.txt")
    run = hostile_run(place)
    for output in (place.work / "thesis.html", place.outside / "secret.txt"):
        place.supersam("report", run, "--output", output)


@quick
def report_linked_figure(place: Place) -> None:
    """report of a run whose figures are links to others' files"""
    run = hostile_run(place)
    for name in ("pareto.png", "overlays.png"):
        (run / name).symlink_to(place.secret)
    place.supersam("report", run)


@quick
def preview_output(place: Place) -> None:
    """preview over a picture of the user's"""
    place.users_own(place.work / "holiday.png")
    shapes = ["--data.source", "shapes", "--data.shapes_image_size", "64", "--data.shapes_train_images", "2"]
    shapes += ["--num_images", "1", "--image_size", "64"]
    place.supersam("preview", *shapes, "--output", place.work / "holiday.png")


@quick
def convert_output(place: Place) -> None:
    """convert into a folder of the user's"""
    import torch

    place.users_own(place.work / "mine")
    torch.save({}, place.work / "sam.pth")
    place.supersam("convert", place.work / "sam.pth", place.work / "mine")


@quick
def prepare_output(place: Place) -> None:
    """prepare into a folder of the user's"""
    place.users_own(place.work / "prepared")
    prepare(place, inputs.coco(place.work / "coco", []))


# What hangs, fills memory, or starts a program.


@way
def eps_as_png(place: Place) -> None:
    """preview and prepare a picture that is a PostScript program"""
    root = inputs.pairs(place.work / "pairs")
    inputs.eps(root / "images" / "bad.png")
    programs = inputs.ghostscript(place.root / "bin", place.canary)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    place.supersam("prepare", root, "--output_dir", place.work / "prepared", PATH=path)
    draw(place, root, PATH=path)


def draw(place: Place, root: Path, **env: str) -> None:
    values = {"data.source": root, "output": place.work / "preview.png", "num_images": 4, "image_size": 64}
    place.supersam("preview", *options(values), **env)


@way
def fifo(place: Place) -> None:
    """preview and prepare a source one of whose pictures is a pipe"""
    root = inputs.pairs(place.work / "pairs")
    os.mkfifo(root / "images" / "bad.png")
    prepare(place, root)
    draw(place, root)


@way
def fifo_mask(place: Place) -> None:
    """prepare a source one of whose masks is a pipe"""
    root = inputs.pairs(place.work / "pairs")
    inputs.picture(root / "images" / "bad.png")
    (root / "masks" / "bad.png").unlink()
    os.mkfifo(root / "masks" / "bad.png")
    prepare(place, root)


@way
def fifo_recipe(place: Place) -> None:
    """run a recipe that is a pipe"""
    os.mkfifo(place.work / "recipe.yaml")
    place.supersam("run", "--config", place.work / "recipe.yaml", "--dry_run")


@way
def dev_zero(place: Place) -> None:
    """preview and prepare a source one of whose pictures is a link to /dev/zero"""
    root = inputs.pairs(place.work / "pairs")
    (root / "images" / "bad.png").symlink_to("/dev/zero")
    prepare(place, root)
    draw(place, root)


@way
def dev_zero_annotations(place: Place) -> None:
    """prepare COCO whose annotations are a link to /dev/zero"""
    root = inputs.coco(place.work / "coco", [])
    (root / "annotations" / "instances_train.json").unlink()
    (root / "annotations" / "instances_train.json").symlink_to("/dev/zero")
    prepare(place, root)


@way
def png_bomb(place: Place) -> None:
    """preview and prepare a picture of 30,000 x 30,000 px in a few kilobytes"""
    root = inputs.pairs(place.work / "pairs")
    inputs.png_header(root / "images" / "bad.png")
    prepare(place, root)
    draw(place, root)


@way
def png_bomb_mask(place: Place) -> None:
    """prepare a mask of 13,000 x 13,000 px in a few kilobytes"""
    root = inputs.pairs(place.work / "pairs")
    inputs.picture(root / "images" / "bad.png")
    inputs.png_header(root / "masks" / "bad.png", 13_000)
    prepare(place, root)


@way
def yaml_bomb(place: Place) -> None:
    """run a recipe whose aliases stand for 10^9 entries"""
    (place.work / "recipe.yaml").write_text(inputs.yaml_bomb())
    place.supersam("run", "--config", place.work / "recipe.yaml", "--dry_run")
    place.supersam("ofb", "run", "--config", place.work / "recipe.yaml", "--dry_run")


@way
def yaml_bomb_card(place: Place) -> None:
    """push a model whose card's metadata are aliases that stand for 10^9 entries"""
    folder = inputs.exported(place.work / "model")
    (folder / "README.md").write_text(f"---\n{inputs.yaml_bomb()}---\n# A model\n")
    place.supersam("push", folder, "me/model", "--dry_run", "--tags", "a")


# Names that would be more than names.


def hostile_run(place: Place) -> Path:
    """The folder of a run that came from elsewhere: `run.json`, with names of somebody's choice."""
    run, text = place.work / "run", inputs.HOSTILE
    recipe = {"pretrain": {"enabled": False}, "rank_layers": {"enabled": False}, "evaluate": {"before": False}}
    recipe |= {"seed": 0, "data": {"source": text}, "train": {}, "search": {}}
    sitting = {"began": text, "ended": None, "outcome": None, "command": text, "changed": {}}
    record = {"recipe": recipe, "sittings": [sitting], "data": {"split": text}, "images": {}, "processes": 1}
    record |= {"hardware": {"device": text, "cores": 1}, "git": None, "versions": {"torch": text}}
    run.mkdir()
    (run / "run.json").write_text(json.dumps(record))
    return run


@quick
def page_names(place: Place) -> None:
    """report of a run whose names hold HTML and scripts"""
    run = hostile_run(place)
    place.supersam("report", run)
    if (run / "report.html").is_file() and "<script>alert" in (run / "report.html").read_text():
        raise GotIn("a script is in the page")


@quick
def card_names(place: Place) -> None:
    """prepare classes whose names hold links, HTML, tables and commands"""
    root = place.work / "classes"
    for name in (f"a {inputs.HOSTILE}".replace("/", "∕"), "b ](https:evil) | c |\n\n# d\n```\n"):
        inputs.picture(root / name / "a.png")
    output = place.work / 'a|b <b> $(id) "); import os; ("'
    place.supersam("prepare", root, "--output_dir", output)
    if (output / "README.md").is_file():
        check_card((output / "README.md").read_text())


@quick
def plain_card_names(place: Place) -> None:
    """push a revision whose name is Python"""
    folder = inputs.vit(place.work / "model")
    revision = '"); import os; os.system("id"); ("'
    place.supersam("push", folder, "me/model", "--revision", revision, "--dry_run")
    check_card(place.commands[-1].out)


def check_card(card: str) -> None:
    """Looks for what a name has become, beside a name."""
    import ast

    try:
        from markdown_reader import rendered
    except ImportError as error:
        raise Skipped("markdown-it-py is not installed") from error
    found = rendered(card)
    if found.html:
        raise GotIn(f"HTML in a card: {found.html[0]}")
    if any(len(set(rows)) > 1 for rows in found.tables):
        raise GotIn("a name has columns in a table of a card")
    if any("evil" in link for link in found.links):
        raise GotIn("a link in a card")
    for block in found.code.get("python", []):
        try:
            modules = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import)]
        except SyntaxError as error:
            raise GotIn("a card's Python is not Python any more") from error
        if modules:
            raise GotIn("a name is code in a card's Python")


def needs(module: str) -> None:
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise Skipped(f"{module} is not installed")
