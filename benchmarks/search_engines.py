"""The three search engines on one trained supernet and budget, each several times with one seed, and over seeds.

    python benchmarks/search_engines.py --config recipes/supersam/nuclei.yaml --model.name SAM --data.source DATASET \\
        --output_dir runs/nuclei

`output_dir` is a run whose supernet is trained. Qualities are shared between all searches (a subnet is evaluated
once), so the engines are compared on the same numbers. Writes `search_engines.{json,md}` there.
"""

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from before_training import recipe_from

from supersam_hf.elastic.cost import SamShape, count_macs, count_parameters
from supersam_hf.evaluation import quality_of
from supersam_hf.files import fingerprint, write_json
from supersam_hf.measure import hardware
from supersam_hf.pipeline.context import Run
from supersam_hf.pipeline.journal import Journal
from supersam_hf.search import Objective, run_search


ENGINES = ("opentuner", "random", "evolution")
SEEDS = (0, 1, 2)
IMAGES = 16


def main() -> None:
    run = Run(recipe_from(sys.argv[1:]))
    model = run.supernet()
    space, shape, loader = run.space(model), SamShape.from_config(model.config), run.holdout_loader(IMAGES)
    weights = fingerprint(model)
    folder = run.folder / "search_engines"
    journal = Journal(folder / "qualities.jsonl", {"weights": weights, "images": IMAGES})
    quality = quality_of(model, loader)
    rows = []
    for engine in ENGINES:
        for seed in SEEDS:
            # under a tight budget random sampling is rejected hundreds of times a trial
            args = replace(run.recipe.search, engine=engine, seed=seed, max_asks=1000 * run.recipe.search.trials)
            objective = Objective(
                space,
                args.budget,
                params=lambda s: count_parameters(shape, s),
                macs=lambda s: count_macs(shape, s),
                quality=lambda s: journal.get(s.to_json(), lambda: quality(s)),
            )
            # twice with the first seed: the trials must be the same
            logs = [folder / f"{engine}-{seed}-{i}.jsonl" for i in range(2 if seed == SEEDS[0] else 1)]
            results = [run_search(objective, args, log, context={"weights": weights}) for log in logs]
            best = results[0].best
            assert best is not None
            same = all(log.read_bytes() == logs[0].read_bytes() for log in logs)
            row = {"engine": engine, "seed": seed, "quality": best.quality, "params": best.params}
            row |= {"asks": len(results[0].asks), "trials": len(results[0].trials), "repeats": len(logs), "same": same}
            rows.append(row)
            print(json.dumps(row), flush=True)
    write_json(run.folder / "search_engines.json", {"rows": rows, "hardware": hardware(), "images": IMAGES})
    lines = [
        "| engine | best holdout mIoU (mean ± sd over seeds) | asks | repeated run identical |",
        "|---|---|---|---|",
    ]
    for engine in ENGINES:
        mine = [row for row in rows if row["engine"] == engine]
        values = [row["quality"] for row in mine]
        spread = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
        asks = " / ".join(str(row["asks"]) for row in mine)
        lines.append(f"| {engine} | {spread} | {asks} | {'yes' if mine[0]['same'] else 'NO'} |")
    text = "\n".join(lines) + "\n"
    Path(run.folder / "search_engines.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
