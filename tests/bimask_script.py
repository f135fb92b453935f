"""A bi-mask search for tests, and in processes of its own where it is killed or spread over two.

usage: bimask_script.py OUTPUT_DIR [KILL_AFTER_STEP | bf16 | gradients | sam]
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from classify_script import stripes, tiny_vit

from supersam_hf import SuperSamConfig, SuperSamModel, SuperSamProcessor
from supersam_hf.bimask.space import SearchSpace
from supersam_hf.data import DataArguments, PromptDataset, build_loader
from supersam_hf.data.shapes import shapes
from supersam_hf.models.ofb_vit import OfbViTForImageClassification
from supersam_hf.training.bimask import BiMaskTrainer, train_bimask
from supersam_hf.training.bimask_arguments import BiMaskArguments, MaskSearchArguments
from supersam_hf.training.bimask_sam import SamBiMaskArguments, train_sam_bimask
from supersam_hf.training.engine import Engine


def search_arguments(**values: Any) -> BiMaskArguments:
    """A search of 24 steps in which cells die early and often."""
    defaults: dict[str, Any] = {
        "max_steps": 30,
        "search_steps": 24,
        "prune_steps": 3,
        "alpha_learning_rate": 0.3,
        "budget_weight": 500.0,
        "learning_rate": 1e-3,
        "score_learning_rate": 5e-2,
        "save_steps": 5,
        "logging_steps": 1,
    }
    return BiMaskArguments(**{**defaults, **({} if "max_params" in values else {"max_macs": 0.5}), **values})


def search(
    output_dir: Path | str, args: BiMaskArguments | None = None, kill_after: int | None = None, batch_size: int = 4
) -> tuple[OfbViTForImageClassification, dict[str, Any]]:
    def evaluate(engine: Engine) -> dict[str, float]:
        if engine.global_step == kill_after:
            os._exit(9)  # as SIGKILL: nothing is flushed or cleaned up
        return {}

    args = args or search_arguments()
    if kill_after is not None:
        args.eval_steps = 1
    return train_bimask(tiny_vit(), SearchSpace(), stripes(batch_size=batch_size), args, output_dir, evaluate=evaluate)


def search_vit(args: MaskSearchArguments, folder: Path, rank: int, world: int) -> None:
    train_bimask(tiny_vit(), SearchSpace(), stripes(24, batch_size=12 // world), args, folder)


def search_sam(args: MaskSearchArguments, folder: Path, rank: int, world: int) -> None:
    """One object an image, so that each process has as many."""
    from conftest import randomised, tiny_config

    model = randomised(SuperSamModel(SuperSamConfig(**tiny_config().to_dict())))
    data, processor = DataArguments(max_objects=1, min_area=20), SuperSamProcessor.for_config(model.config)
    dataset = PromptDataset(shapes(24, image_size=64, seed=3), processor.image_processor, data, training=True)
    train_sam_bimask(model, build_loader(dataset, 12 // world, rank=rank, world=world), args, folder)


def gradients(folder: Path, rogue: bool = False, sam: bool = False) -> None:
    """Gradients of the first step, one file a process; then the search goes on, and its shapes after each cut.

    Without what is drawn for each process apart: masked patches, dropped paths. `rogue`: rank 1 weighs its losses
    otherwise.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    values: dict[str, Any] = {"max_steps": 12, "search_steps": 12, "resume_from_checkpoint": None}
    args: MaskSearchArguments = search_arguments(pmim=False, drop_path_rate=0.0, **values)
    if sam:
        values |= {"prune_steps": 3, "warmup_steps": 0, "alpha_learning_rate": 0.3, "save_steps": 0, "max_macs": 0.7}
        args = SamBiMaskArguments(**values)
    if rogue and rank == 1:
        args.l1_attention, args.l1_other = 0.2, 0.2
    found: dict[str, Any] = {"shapes": []}

    def kept(engine: Engine) -> float | None:
        if "gradients" not in found:
            named = engine.unwrapped.named_parameters()
            found["gradients"] = {name: p.grad.clone() for name, p in named if p.grad is not None}
        norm = Engine.optimizer_step(engine)
        found["shapes"].append({name: tuple(p.shape) for name, p in engine.unwrapped.named_parameters()})
        return norm

    step = BiMaskTrainer.step

    def first_step(trainer: BiMaskTrainer, engine: Engine, batches: Any) -> dict[str, float]:
        engine.optimizer_step = lambda: kept(engine)
        return step(trainer, engine, batches)

    BiMaskTrainer.step = first_step
    (search_sam if sam else search_vit)(args, folder, rank, world)
    BiMaskTrainer.step = step
    torch.save(found, folder / f"gradients-{world}-{rank}{'-rogue' if rogue else ''}.pt")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    option = sys.argv[2] if len(sys.argv) > 2 else ""
    if option in ("gradients", "sam"):
        gradients(folder, sam=option == "sam")
        gradients(folder, rogue=True, sam=option == "sam")
        sys.exit()
    arguments = search_arguments(mixed_precision="bf16") if option == "bf16" else None
    found, report = search(folder, arguments, kill_after=int(option) if option.isdigit() else None)
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save(found.state_dict(), folder / "found.pt")
