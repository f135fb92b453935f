"""The command line's front door: answers `--help` before anything heavy is imported."""

import os
import sys

from .names import did_you_mean


VERBS = {
    "run": "the whole pipeline of a recipe: pretrain?, rank-layers, reorder, train, search, extract, recover, report",
    "pretrain": "train a small SAM, from scratch or around a ViT/DeiT encoder",
    "rank-layers": "mIoU with each layer removed, then greedily more; proposes the prunable layers",
    "reorder": "sort the elastic channels, most salient first (wanda, magnitude)",
    "train": "sandwich training of the supernet",
    "recover": "train the found subnet alone, at the rate of the supernet's training",
    "finetune": "plain training of one model: a supernet's largest subnet, or an extracted subnet",
    "evaluate": "mIoU of the original, largest, smallest and sampled subnets; table and Pareto plot",
    "search": "find the best subnet under a budget (parameters, MACs, latency, quality)",
    "extract": "save a subnet as a standalone model",
    "measure": "parameters, MACs, latency, throughput and memory on this machine",
    "bimask": "OFB's search on the image encoder: importance and size of every unit at once, in one training",
    "prune": "cut the image encoder to a budget at once, by the importance of its units; minutes, no training",
    "export": "a SAM or classifier as ONNX, or with int8 weights, checked against PyTorch and timed beside it",
    "adapt": "LoRA: specialise a supernet (elastic LoRA) or one subnet to a dataset, in a few MB",
    "report": "write a run, finished or not, on one HTML page",
    "push": "publish a run's subnet, supernet, Pareto points or adapter on the Hub, with its model card",
    "preview": "a figure of a data source: images as the model sees them, with objects and prompts",
    "prepare": "turn a raw dataset into canonical parquet, with its card; push it to the Hub",
    "segment": "a ViT or DeiT, or what OFB found in one, with a SETR head: semantic segmentation",
    "experiment": "a table or figure of the SuperSAM paper, over variants and seeds, from any data and checkpoint",
    "convert": "turn an original SAM .pth checkpoint into a folder that from_pretrained loads",
}
OFB_VERBS = {
    "run": "the whole pipeline of a recipe: pretrain?, search (or train-whole, prune), extract, finetune?, report",
    "pretrain": "train a small ViT or Swin classifier from scratch",
    "search": "bi-mask search of a ViT, DeiT or Swin under a budget; the network shrinks as it trains",
    "train-whole": "train the whole network on the data, before it is pruned",
    "prune": "cut a ViT, DeiT or Swin to a budget at once, by the importance of its units; minutes, no training",
    "extract": "save what the search found as a standalone model, checked",
    "finetune": "retrain the found model, or transfer any ViT, DeiT or Swin to other classes",
    "evaluate": "top-1 and top-5 of the original, the searched and the retrained model; table",
    "measure": "parameters, MACs, latency, throughput and memory on this machine",
}


# Options that had names of their own where a recipe has another.
RENAMED = {
    "export": {
        "--data": "--data.source",
        "--num_images": "--data.max_eval_images",
        **{
            f"--{name}": f"--data.{name}"
            for name in ("eval_split", "crop_eval", "min_area", "box_padding", "label_mapping")
        },
    },
    "prepare": {
        f"--{name}": f"--data.{name}"
        for name in (
            *("format", "patch_size", "merge_objects", "on_error", "config_name"),
            *("image_column", "label_column", "label_names"),
        )
    },
}


def usage() -> str:
    return f"""usage: supersam-hf VERB [--config RECIPE.yaml] [--section.key VALUE ...]
       supersam-hf ofb VERB [--config RECIPE.yaml] [--section.key VALUE ...]

Find the smaller network inside a SAM checkpoint (SuperSAM) or a ViT or DeiT classifier (OFB) that fits your budget.

verbs (SuperSAM):
{_listed(VERBS)}

ofb verbs (Once for Both):
{_listed(OFB_VERBS)}

Every value of a recipe can be given on the command line: --train.max_steps 500 --search.max_params 0.5
`supersam-hf VERB --help` lists what the verb reads, with units and defaults.
Several GPUs: accelerate launch -m supersam_hf VERB ...
Exit codes: 0 done; 2 something must be changed, as the message says; 130, 143 interrupted, the same command goes on.

examples:
  supersam-hf run --config recipes/supersam/quickstart.yaml
  supersam-hf search --model.name my/supernet --data.source my/dataset --search.max_params 60e6
  supersam-hf ofb run --config recipes/ofb_vit/quickstart.yaml
"""


def ofb_usage() -> str:
    return f"""usage: supersam-hf ofb VERB [--config RECIPE.yaml] [--section.key VALUE ...]

Once for Both: search importance and sparsity of every unit of a ViT or DeiT classifier at once, down to a budget.

verbs:
{_listed(OFB_VERBS)}

Every value of a recipe can be given on the command line: --search.max_steps 500 --finetune.learning_rate 1e-4
`supersam-hf ofb VERB --help` lists what the verb reads, with units and defaults.
Several GPUs: accelerate launch -m supersam_hf ofb VERB ...
Exit codes: 0 done; 2 something must be changed, as the message says; 130, 143 interrupted, the same command goes on.

examples:
  supersam-hf ofb run --config recipes/ofb_vit/quickstart.yaml
  supersam-hf ofb finetune --config recipes/ofb_vit/transfer_cifar10.yaml --model.name runs/deit_small_1.7g/finetuned
"""


def _listed(verbs: dict[str, str]) -> str:
    return "\n".join(f"  {verb:<12} {text}" for verb, text in verbs.items())


def main(argv: list[str] | None = None) -> int:
    """Entry point of `supersam-hf` and of `python -m supersam_hf`; returns the exit code."""
    from .streams import use_lasting_streams

    use_lasting_streams()
    argv = sys.argv[1:] if argv is None else argv
    ofb = argv[:1] == ["ofb"]
    verbs, words = (OFB_VERBS, argv[1:]) if ofb else (VERBS, argv)
    if not words or words[0] in ("-h", "--help"):
        print(ofb_usage() if ofb else usage(), end="")
        return 0
    if words[0] not in verbs:
        known = [*verbs] if ofb else [*verbs, "ofb"]
        hint = did_you_mean(words[0], known) or f"; one of: {', '.join(known)}"
        print(f"supersam-hf{' ofb' if ofb else ''}: unknown verb {words[0]!r}{hint}", file=sys.stderr)
        return 2
    name = f"ofb {words[0]}" if ofb else words[0]
    words = [words[0], *renamed(name, words[1:])]
    code = answered(name, words[1:], verbs[words[0]])
    if code is not None:
        return code
    # Else MKL's products depend on where in memory a matrix lies, and a run resumed is not the run never stopped.
    os.environ.setdefault("MKL_CBWR", "AUTO")
    from supersam_hf.cli import run_verb

    return run_verb(words[0], words[1:], method="ofb" if ofb else "supersam")


def answered(name: str, argv: list[str], text: str) -> int | None:
    """Prints help, or what is wrong with the words, before anything heavy is imported; returns the exit code, or None
    where the verb is to be run."""
    from .options import unknown_word, verb_named

    verb = verb_named(name)
    at = next(
        (place for place, word in enumerate(argv) if word in ("-h", "--help") or word.startswith("--help=")), None
    )
    if at is not None:
        from .help import help_of

        wanted = argv[at].partition("=")[2] or next(
            (word for word in argv[at + 1 :] if not word.startswith("-")), None
        )
        print(help_of(name, f"{text[0].upper()}{text[1:]}.", verb, wanted), end="")
        return 0
    wrong = unknown_word(verb, argv)
    if wrong is None:
        return None
    print(f"supersam-hf {name}: {wrong}", file=sys.stderr)
    print(f"`supersam-hf {name} --help` lists the options that matter, `--help all` every one.", file=sys.stderr)
    return 2


def renamed(name: str, argv: list[str]) -> list[str]:
    """The words with options that had other names by their names of now, which is told."""
    new = RENAMED.get(name, {})
    words = []
    for word in argv:
        option, given, value = word.partition("=")
        if option in new:
            print(f"supersam-hf {name}: `{option}` is now `{new[option]}`", file=sys.stderr)
        words.append(f"{new.get(option, option)}{given}{value}")
    return words
