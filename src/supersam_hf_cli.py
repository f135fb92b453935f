"""The command line's front door: answers `--help` before anything heavy is imported."""

import sys


VERBS = {
    "run": "the whole pipeline of a recipe: pretrain?, rank-layers, reorder, train, search, extract, report",
    "pretrain": "train a small SAM, from scratch or around a ViT/DeiT encoder",
    "rank-layers": "mIoU with each layer removed, then greedily more; proposes the prunable layers",
    "reorder": "sort the elastic channels, most salient first (wanda, magnitude)",
    "train": "sandwich training of the supernet",
    "finetune": "plain training of one model: a supernet's largest subnet, or an extracted subnet",
    "evaluate": "mIoU of the original, largest, smallest and sampled subnets; table and Pareto plot",
    "search": "find the best subnet under a budget (parameters, MACs, latency, quality)",
    "extract": "save a subnet as a standalone model",
    "measure": "parameters, MACs, latency, throughput and memory on this machine",
    "convert": "turn an original SAM .pth checkpoint into a folder that from_pretrained loads",
}


def usage() -> str:
    verbs = "\n".join(f"  {verb:<12} {text}" for verb, text in VERBS.items())
    return f"""usage: supersam-hf VERB [--config RECIPE.yaml] [--section.key VALUE ...]

Find the smaller network inside a SAM checkpoint that fits your budget.

verbs:
{verbs}

Every value of a recipe can be given on the command line: --train.max_steps 500 --search.max_params 0.5
`supersam-hf VERB --help` lists what the verb reads, with units and defaults.
Several GPUs: accelerate launch -m supersam_hf VERB ...

examples:
  supersam-hf run --config recipes/supersam/quickstart.yaml
  supersam-hf search --model.name my/supernet --data.source my/dataset --search.max_params 60e6
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of `supersam-hf` and of `python -m supersam_hf`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return 0
    if argv[0] not in VERBS:
        print(f"supersam-hf: unknown verb {argv[0]!r}; one of: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    from supersam_hf.cli import run_verb

    return run_verb(argv[0], argv[1:])


if __name__ == "__main__":
    sys.exit(main())
