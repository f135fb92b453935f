"""Kills, stops, corrupts and starves whole tiny runs at random moments, and tells whether anything was lost.

    python benchmarks/survival.py --output benchmarks/results/survival --kills 30 --terms 10 --corruptions 10 \\
        --disks 3 --ranks 3

Every run goes on by the same command and must end bit for bit as the run that nothing happened to: all weights, the
ranking, every trial of the search, every loss. Results are appended to `trials.jsonl` in the output folder, so that an
interrupted benchmark goes on; the table is in `survival.{md,json}`. About 30 s a trial. A full disk is a small tmpfs,
which needs the right to mount one.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from survival_jobs import (
    JOBS,
    PHASES,
    count_lines,
    differences,
    finish,
    moment_of,
    outcome,
    start,
    wait_for,
    workers,
)


PHASE_ORDER = ("training", "writing", "evaluating", "searching", "anywhere", "pretraining")
KINDS = {
    "kills": "kill -9",
    "terms": "SIGTERM",
    "corruptions": "newest checkpoint corrupted",
    "disks": "disk full",
    "ranks": "rank killed under torchrun",
}


class Bench:
    """Runs trials in `work`, against references that nothing happened to."""

    def __init__(self, work: Path, seed: int) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.seed = work, seed

    def reference(self, job: str, processes: int = 1) -> Path:
        """The run that nothing happens to, made once."""
        folder = self.work / f"reference-{job}-{processes}"
        if not (folder / "done").exists():
            code = finish(job, folder, processes)
            if code:
                raise SystemExit(f"{folder}: the reference itself ended with {code}; see {folder}.log")
            (folder / "done").touch()
        return folder

    def trial(self, kind: str, index: int) -> dict[str, Any]:
        """One trial: its record."""
        rng = random.Random(f"{self.seed} {kind} {index}")
        job = list(JOBS)[index % len(JOBS)]
        folder = self.work / f"{kind}-{index}"
        record = {"kind": kind, "index": index, "job": job}
        record |= getattr(self, kind)(job, folder, index, rng)
        if record.get("skipped") is None:
            record["differs"] = differences(outcome(self.reference(job, record.get("processes", 1))), outcome(folder))
            record["survived"] = record["went_on"] and not record["differs"]
        if record.get("survived", True):
            unmount(folder)
            shutil.rmtree(folder, ignore_errors=True)
        return record

    def moment(self, job: str, phase: str, rng: random.Random, processes: int = 1) -> Any:
        reference = self.reference(job, processes)
        most = 20 if phase in ("anywhere", "writing") else count_lines(reference / PHASES[phase][job])
        return moment_of(phase, job, rng, most)

    def kills(self, job: str, folder: Path, index: int, rng: random.Random) -> dict[str, Any]:
        return self.struck(job, folder, PHASE_ORDER[(index // 2) % len(PHASE_ORDER)], rng, signal.SIGKILL)

    def terms(self, job: str, folder: Path, index: int, rng: random.Random) -> dict[str, Any]:
        return self.struck(job, folder, PHASE_ORDER[(index // 2) % len(PHASE_ORDER)], rng, signal.SIGTERM)

    def struck(self, job: str, folder: Path, phase: str, rng: random.Random, number: signal.Signals) -> dict[str, Any]:
        moment = self.moment(job, phase, rng)
        process = start(job, folder)
        hit = wait_for(process, moment, folder)
        process.send_signal(number)
        code = process.wait(timeout=120)
        asides = len(list(folder.glob("*/*.tmp")))
        # While it is still being imported, a program ends by any signal, and there is nothing to lose.
        begun = folder.exists()
        well = code == (128 + number if number == signal.SIGTERM and begun else -number) or not hit
        return {"phase": phase, "hit": hit, "begun": begun, "exit": code, "half_written": asides} | {
            "went_on": well and finish(job, folder) == 0
        }

    def corruptions(self, job: str, folder: Path, index: int, rng: random.Random) -> dict[str, Any]:
        """A run killed in its training with two checkpoints or more; a random file of the newest is damaged."""
        stage = {"supersam": "train", "ofb": ("search", "finetune")[index // 2 % 2]}[job]
        process = start(job, folder)
        wait_for(process, lambda f: len(list((f / stage).glob("checkpoint-*[0-9]"))) >= 2, folder)
        process.kill()
        process.wait()
        newest = sorted((folder / stage).glob("checkpoint-*[0-9]"))[-1]
        path = rng.choice(sorted(path for path in newest.iterdir()))
        how = rng.choice(("truncate", "flip", "delete"))
        damage(path, how, rng)
        folder.with_suffix(".log").write_bytes(b"")
        code = finish(job, folder)
        reported = f"{newest} cannot be used" in folder.with_suffix(".log").read_text(errors="replace")
        return {"file": path.name, "how": how, "reported": reported, "exit": code, "went_on": reported and code == 0}

    def disks(self, job: str, folder: Path, index: int, rng: random.Random) -> dict[str, Any]:
        """On a disk too small for the run by a random share, which then grows."""
        reference = self.reference(job)
        needed = sum(path.stat().st_size for path in reference.rglob("*") if path.is_file())
        folder.mkdir(parents=True)
        size = int(needed * rng.uniform(0.3, 0.8))
        mounted = mount(folder, f"size={size}")
        if mounted:
            return {"skipped": f"no file system can be mounted: {mounted}"}
        code = finish(job, folder)
        said = folder.with_suffix(".log").read_text(errors="replace")
        told = "disk is full" in said
        torn = [path for path in folder.glob("*/checkpoint-*") if path.name.endswith(".tmp")]
        mount(folder, f"remount,size={4 * needed}")
        return {"bytes": size, "needed": needed, "exit": code, "told": told, "half_written": len(torn)} | {
            "went_on": code == 2 and told and not torn and finish(job, folder) == 0
        }

    def ranks(self, job: str, folder: Path, index: int, rng: random.Random) -> dict[str, Any]:
        """torchrun with two processes, of which one is killed; nothing else is done to bring it back."""
        phase = ("training", "writing", "searching")[index % 3]
        moment = self.moment(job, phase, rng, processes=2)
        process = start(job, folder, processes=2)
        hit = wait_for(process, moment, folder)
        rank = rng.randrange(2)
        if hit:
            workers(process)[rank].kill()
        code = process.wait(timeout=900)
        return {"phase": phase, "rank": rank, "hit": hit, "exit": code, "processes": 2, "went_on": code == 0}


def damage(path: Path, how: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "delete" or not data:
        path.unlink()
    elif how == "truncate":
        path.write_bytes(data[: rng.randrange(len(data))])
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)


def mount(folder: Path, options: str) -> str:
    """Mounts a tmpfs; what went wrong, if anything."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    return done.stderr.strip()


def unmount(folder: Path) -> None:
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


def write_table(output: Path, records: list[dict[str, Any]]) -> str:
    """`survival.md` and `survival.json`: tried, survived, lost, by kind."""
    lines = ["| what happened | tried | survived | lost |", "|---|---|---|---|"]
    for kind, name in KINDS.items():
        tried = [record for record in records if record["kind"] == kind and "survived" in record]
        survived = sum(record["survived"] for record in tried)
        early = sum(not record.get("begun", True) for record in tried)
        name += f" ({early} of them before the run had begun)" if early else ""
        lines.append(f"| {name} | {len(tried)} | {survived} | {len(tried) - survived} |")
    skipped = {record["skipped"] for record in records if "skipped" in record}
    lines += [f"\nLeft out: {reason}" for reason in sorted(skipped)]
    (output / "survival.md").write_text("\n".join(lines) + "\n")
    (output / "survival.json").write_text(json.dumps(records, indent=2) + "\n")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind, name in KINDS.items():
        defaults = {"kills": 30, "terms": 10, "corruptions": 10}
        parser.add_argument(f"--{kind}", type=int, default=defaults.get(kind, 3), help=f"trials: {name}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of what is damaged")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/survival"), help="takes the results")
    parser.add_argument("--work", type=Path, default=None, help="takes the runs; a temporary folder if not given")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    log = args.output / "trials.jsonl"
    records = [json.loads(line) for line in log.open()] if log.exists() else []
    done = {(record["kind"], record["index"]) for record in records}
    bench = Bench(args.work or Path(tempfile.mkdtemp(prefix="survival-")), args.seed)
    for kind in KINDS:
        for index in range(getattr(args, kind)):
            if (kind, index) in done:
                continue
            record = bench.trial(kind, index)
            records.append(record)
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)
    print(write_table(args.output, records))


if __name__ == "__main__":
    main()
