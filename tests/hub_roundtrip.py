"""A supernet and its subnets, from training to strangers: run it, `python tests/hub_roundtrip.py`.

Trains a small supernet on generated shapes, searches it, pushes the supernet, three of its Pareto points and a
depth-only subnet to a Hub on loopback, and loads them back: in an environment that has torch and transformers but not
this package, in a fresh process with this package, and as a stock `SamModel`. Every output is compared with the one
computed from the run's own folder, bit for bit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).parents[1]
OWNER = "loopback"
SUPERNET, DEPTH_ONLY, STOCK = f"{OWNER}/supersam-shapes", f"{OWNER}/depth-only", f"{OWNER}/depth-only-stock"
BOX = [[[10.0, 12.0, 44.0, 50.0]]]  # px of the image: x1, y1, x2, y2
SHORT = {"pretrain.max_steps": 300, "train.max_steps": 40, "search.trials": 12, "measure.repeats": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", help="interpreter with torch and transformers, without supersam_hf; default: a new venv"
    )
    parser.add_argument("--work", type=Path, help="folder for run, venv and outputs; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        round_trip(work, str(Path(args.python).absolute()) if args.python else new_venv(work / "venv"))


def round_trip(work: Path, bare_python: str) -> None:
    """All of it; raises `AssertionError` or `CalledProcessError` where something is not as it must be."""
    from hub_server import HubServer

    with HubServer() as server:
        env = {**os.environ, **server.env(work / "home")}
        run = work / "run"
        overrides = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
        recipe = ROOT / "recipes" / "supersam" / "quickstart.yaml"
        cli(env, "run", "--config", str(recipe), "--output_dir", str(run), *overrides)
        cli(env, "push", str(run), SUPERNET, "--name", "supernet")
        points = [point["name"] for point in json.loads(read(server, SUPERNET, "pareto.json"))["points"]]
        chosen = [points[0], points[len(points) // 2], points[-1]]
        assert len(set(chosen)) == 3, f"the search found a front of {len(points)} points only"
        for name in chosen:
            cli(env, "push", str(run), repo_of(name), "--name", name)
        step(sys.executable, env, "reference", work, chosen)
        step(bare_python, env, "bare", work, chosen)
        step(sys.executable, env, "package", work, chosen)


def read(server: Any, repo_id: str, path: str) -> str:
    """A file of a repository on the loopback Hub."""
    from huggingface_hub import hf_hub_download

    with tempfile.TemporaryDirectory() as folder:
        return Path(hf_hub_download(repo_id, path, endpoint=server.url, local_dir=folder)).read_text()


def repo_of(name: str) -> str:
    return f"{OWNER}/supersam-shapes-{name}"


def cli(env: dict[str, str], *words: str) -> None:
    print("$ supersam-hf", *words, flush=True)
    subprocess.run([sys.executable, "-m", "supersam_hf", *words], env=env, check=True)


def step(python: str, env: dict[str, str], name: str, work: Path, chosen: list[str]) -> None:
    """Runs one of the functions below in a process of its own."""
    env = {key: value for key, value in env.items() if key != "PYTHONPATH"}
    subprocess.run([python, str(Path(__file__).resolve()), name, str(work), *chosen], env=env, check=True, cwd=work)


def new_venv(folder: Path) -> str:
    """An environment with what a stranger has: torch, transformers, Pillow."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "torch"], check=True)
        subprocess.run([*pip, "transformers", "pillow"], check=True)
    return str(python)


def outputs(model: Any, processor: Any, work: Path) -> dict[str, torch.Tensor]:
    """Masks and scores for one box in the image of `work`."""
    from PIL import Image

    with Image.open(work / "image.png") as image:
        inputs = processor(image.convert("RGB"), input_boxes=BOX, return_tensors="pt")
    with torch.inference_mode():
        out = model.eval()(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float())
    return {"pred_masks": out.pred_masks, "iou_scores": out.iou_scores}


def compare(label: str, found: dict[str, torch.Tensor], work: Path, name: str) -> None:
    from safetensors.torch import load_file

    expected = load_file(work / f"{name}.safetensors")
    worst = max(float((found[key] - value).abs().max()) for key, value in expected.items())
    print(f"{label}: max |difference| {worst}", flush=True)
    assert all(torch.equal(found[key], value) for key, value in expected.items()), label


def reference(work: Path, chosen: list[str]) -> None:
    """What the subnets give, computed in process from the run's folder; pushes a depth-only subnet besides."""
    from safetensors.torch import save_file

    from supersam_hf import Subnet, SuperSamModel, SuperSamProcessor
    from supersam_hf.data import shapes
    from supersam_hf.hub import push

    shapes(1, image_size=64, seed=9)[0]["image"].save(work / "image.png")
    folder = work / "run" / "supernet"
    model, processor = SuperSamModel.from_pretrained(folder), SuperSamProcessor.from_pretrained(folder)
    front = json.loads((work / "run" / "search.json").read_text())["front"]
    for name in chosen:
        subnet = Subnet.from_dict(front[int(name.removeprefix("pareto-"))]["subnet"])
        save_file(outputs(model.extract(subnet), processor, work), work / f"{name}.safetensors")
    shallow = model.extract(model.elastic_space.subnet(removed=model.elastic_space.prunable_layers))
    save_file(outputs(shallow, processor, work), work / "depth-only.safetensors")
    push(shallow, DEPTH_ONLY, processor=processor)
    push(shallow, STOCK, processor=processor, stock=True)


def bare(work: Path, chosen: list[str]) -> None:
    """In an environment without this package: as remote code, and a depth-only subnet as stock `SamModel`."""
    import importlib.util

    from transformers import AutoModelForMaskGeneration, AutoProcessor, SamModel, SamProcessor

    assert importlib.util.find_spec("supersam_hf") is None
    for name in chosen:
        model = AutoModelForMaskGeneration.from_pretrained(repo_of(name), trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(repo_of(name), trust_remote_code=True)
        compare(f"{name} by remote code, without the package", outputs(model, processor, work), work, name)
        model = AutoModelForMaskGeneration.from_pretrained(SUPERNET, trust_remote_code=True, subnet=name)
        compare(f"{name} from the supernet, likewise", outputs(model, processor, work), work, name)
    for repo_id in (DEPTH_ONLY, STOCK):
        compare(
            f"{repo_id} as stock SamModel",
            outputs(SamModel.from_pretrained(repo_id), processor, work),
            work,
            "depth-only",
        )
    processor = SamProcessor.from_pretrained(STOCK)
    compare(
        f"{STOCK} with its own SamProcessor",
        outputs(SamModel.from_pretrained(STOCK), processor, work),
        work,
        "depth-only",
    )
    try:
        AutoModelForMaskGeneration.from_pretrained(repo_of(chosen[0]), trust_remote_code=False)
    except ValueError as error:
        print(f"without trust: {str(error).splitlines()[0][:120]}", flush=True)
    else:
        raise AssertionError("loaded without trust")


def package(work: Path, chosen: list[str]) -> None:
    """In a fresh process with this package: by name from the supernet's repository, and from the subnet's own."""
    from supersam_hf import SuperSamModel, SuperSamProcessor

    processor = SuperSamProcessor.from_pretrained(SUPERNET)
    for name in chosen:
        compare(
            f"{name} from the supernet",
            outputs(SuperSamModel.from_pretrained(SUPERNET, subnet=name), processor, work),
            work,
            name,
        )
        compare(
            f"{name} from its repository",
            outputs(SuperSamModel.from_pretrained(repo_of(name)), processor, work),
            work,
            name,
        )


STEPS = {"reference": reference, "bare": bare, "package": package}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STEPS:
        STEPS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
