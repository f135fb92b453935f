"""What `supersam-hf adapt` leaves in its folder: the adapter, its facts, the extracted subnet, the merged model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..measure import hardware
from ..models.supersam import ElasticSpace, Subnet
from .context import Run


if TYPE_CHECKING:
    from peft import PeftModel


class AdapterFiles:
    """An adapter as `write_model` saves it: peft's two files. peft's README is an unfilled form and is left out."""

    def __init__(self, model: "PeftModel") -> None:
        self.model = model

    def save_pretrained(self, folder: Path) -> None:
        # a SAM has no vocabulary; "auto" would ask the Hub about it
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink()


def saved_adapter(run: Run, elastic: bool) -> "PeftModel":
    """The adapter on its base, both loaded from where they were saved, as a stranger would."""
    from peft import PeftModel

    from ..elastic.lora import load_elastic_adapter

    load: Any = load_elastic_adapter if elastic else PeftModel.from_pretrained
    return load(run.original(), str(run.folder / "adapter")).eval()


def adapter_facts(run: Run, adapted: "PeftModel", elastic: bool, known: dict[str, Any]) -> dict[str, Any]:
    """`adapt.json` but for the qualities: the method, its size and what it cost (`known`)."""
    args, config = run.recipe.adapt, adapted.peft_config["default"].to_dict()
    lora = {"r": args.r, "alpha": args.alpha, "dropout": args.dropout} if args.method == "lora" else {}
    targets = config["target_modules"]
    return {
        "method": args.method,
        "elastic": elastic,
        "base": config["base_model_name_or_path"],
        **lora,
        "targets": targets if isinstance(targets, str) else sorted(targets),
        **known,
        "adapter_bytes": (run.folder / "adapter" / "adapter_model.safetensors").stat().st_size,
        "steps": args.max_steps,
        "seed": args.seed,
        "data": run.recipe.data.source,
        "eval_split": run.recipe.data.eval_split,
        "hardware": hardware(run.state.device),
    }


def table(facts: dict[str, Any]) -> str:
    """Markdown: mIoU before and after, and what the adapter costs."""
    lines = ["| model | parameters | mIoU before | mIoU with the adapter |", "|---|---|---|---|"]
    for row in facts["rows"]:
        lines.append(f"| {row['name']} | {row['params']:,} | {row['before']:.4f} | {row['after']:.4f} |")
    cost = (
        f"{facts['trainable_params']:,} parameters trained ({facts['trainable_share']:.2%}), adapter of "
        f"{facts['adapter_bytes'] / 1e6:.2f} MB, {facts['steps']} steps in {facts['cost']['seconds']:.0f} s."
    )
    return "\n".join([*lines, "", cost, ""])


def write_others(run: Run, adapted: "PeftModel", chosen: Subnet | None, space: ElasticSpace | None) -> None:
    """`subnet/` and `subnet_adapter/`, `merged/`: as the recipe asks. Merging comes last, for it ends the adapter."""
    from ..elastic.lora_extraction import base_model, extract_adapter

    args = run.recipe.adapt
    if chosen is not None:
        extracted = extract_adapter(adapted, chosen, base=str(run.folder / "subnet"))
        run.save_model(base_model(extracted), "subnet")
        run.write_model("subnet_adapter", AdapterFiles(extracted))
        print(f"extracted {args.subnet} to {run.folder}/subnet, its adapter to {run.folder}/subnet_adapter")
    if args.merge:
        merged: Any = adapted
        run.save_model(merged.merge_and_unload(), "merged", space)
        print(f"merged to {run.folder}/merged")
