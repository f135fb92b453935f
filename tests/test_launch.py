"""Accelerate's configurations in recipes/accelerate: read by Accelerate itself, and started where they can be."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from supersam_hf import SuperSamModel
from supersam_hf_cli import main


FOLDER = Path(__file__).parents[1] / "recipes" / "accelerate"
KINDS = {
    "cpu": DistributedType.NO,
    "single_gpu": DistributedType.NO,
    "multi_gpu": DistributedType.MULTI_GPU,
    "multi_node": DistributedType.MULTI_GPU,
    "fsdp": DistributedType.FSDP,
}


def test_every_configuration_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_a_configuration(name: str) -> None:
    """Its loader refuses unknown keys; its launcher fills in its arguments."""
    path = str(FOLDER / f"{name}.yaml")
    config = load_config_from_file(path)
    assert config.distributed_type == KINDS[name]
    assert config.num_processes % config.num_machines == 0
    args = launch_command_parser().parse_args(["--config_file", path, "-m", "supersam_hf"])
    args, *_ = _validate_launch_command(args)
    assert (args.num_processes, args.num_machines) == (config.num_processes, config.num_machines)
    assert bool(args.multi_gpu) == (KINDS[name] == DistributedType.MULTI_GPU)
    assert bool(args.use_fsdp) == (name == "fsdp")
    assert bool(config.use_cpu) == (name == "cpu")


def test_the_fsdp_configuration_names_options_of_the_plugin_and_the_models_layer() -> None:
    options = load_config_from_file(str(FOLDER / "fsdp.yaml")).fsdp_config
    layer = options.pop("fsdp_transformer_layer_cls_to_wrap")
    assert SuperSamModel._no_split_modules == [layer]
    options["fsdp_cpu_offload"] = options.pop("fsdp_offload_params")
    values = {key.removeprefix("fsdp_"): value for key, value in options.items()}
    version = values.pop("version")
    plugin = FullyShardedDataParallelPlugin(version, transformer_cls_names_to_wrap=[layer], **values)
    assert plugin.fsdp_version == 2
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


def launch(config: str, *options: str) -> None:
    """Four steps of a tiny SAM, from nothing or of a tiny supernet."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / f"{config}.yaml")]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def training(folder: Path, stock: Path) -> list[str]:
    values = {
        "output_dir": folder,
        "model.name": stock,
        "data.shapes_image_size": 64,
        "data.shapes_train_images": 16,
        "data.shapes_eval_images": 4,
        "data.batch_size": 2,
        "data.box_padding": 3,
        "holdout_images": 4,
        "space.prunable_layers": "[1,2]",
        "train.max_steps": 4,
    }
    return [
        "-m",
        "supersam_hf",
        "train",
        *(str(word) for key, value in values.items() for word in (f"--{key}", value)),
    ]


def trained(folder: Path) -> dict[str, object]:
    model = SuperSamModel.from_pretrained(folder / "supernet")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return json.loads((folder / "train" / "log.jsonl").read_text().splitlines()[-1])


def test_one_cpu_process_starts(stock_folder: Path, tmp_path: Path) -> None:
    launch("cpu", *training(tmp_path, stock_folder))
    assert trained(tmp_path)["step"] == 4


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["single_gpu", "multi_gpu", "multi_node", "fsdp"])
def test_gpus_start(name: str, stock_folder: Path, tmp_path: Path) -> None:
    """On the GPUs of this machine, be there only one."""
    count = "1" if name == "single_gpu" else str(torch.cuda.device_count())
    machine = ("--num_machines", "1", "--main_process_ip", "127.0.0.1") if name == "multi_node" else ()
    launch(name, "--num_processes", count, *machine, *training(tmp_path, stock_folder))
    assert trained(tmp_path)["step"] == 4


@pytest.mark.parametrize(("rank", "level"), [("0", logging.INFO), ("1", logging.WARNING)])
def test_one_process_tells_how_it_goes(rank: str, level: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.ERROR)
    monkeypatch.setenv("RANK", rank)
    assert main(["report", str(tmp_path)]) == 2
    assert root.level == level
