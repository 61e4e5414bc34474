"""The ladder of gap instances under instances/gap: what is proved and what is known of each. Knows specs and files.

    python -m benchmarks.gap_ladder                       # what there is
    python -m benchmarks.gap_ladder --run tiny small      # recompute by name or prefix; what is better is kept
    python -m benchmarks.gap_ladder --run large-text2sql --budget-s 600

An instance is a spec (cluster, generator, number of workflows, load, seed) and the digest of what it generates. A bound
is replaced by a higher one, a best known value by a lower one, each with its command and date; `--fresh` forgets what
was there first, `--new-bounds` the bounds alone. Best known values come with the schedule that reaches them, so that
anybody can replay it.
"""

import argparse
import gzip
import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hexsolve.atomic import write_atomically
from hexsolve.catalog import load_cluster
from hexsolve.clairvoyant import OBJECTIVES, Best, Limits, Schedule, find_schedules, replay
from hexsolve.sim import stretches
from hexsolve.study import run_policy, standalone_ms
from hexsolve.study.gap_bounds import certified_bounds
from hexsolve.study.gap_bracket import Instance
from hexsolve.study.slo_cell import Load, Place

FOLDER = Path(__file__).resolve().parent.parent / "instances" / "gap"
NAMES = ("req95", "req99", "max_stretch", "mean_stretch")
POLICIES = ("workflow-fcfs", "workflow-llf", "srpt", "wspt", "hexagent")  # those that cost next to nothing
MOST_KEPT_CALLS = 4000  # schedules of larger instances are not kept: they would be megabytes

Entry = dict[str, Any]


@dataclass(frozen=True)
class Rung:
    """Spec of an instance: `rho` is None for a burst."""

    name: str
    cluster: str
    workload: str
    workflows: int
    rho: float | None
    seed: int = 1000

    def place(self) -> Place:
        """Where it plays."""
        load = Load("burst") if self.rho is None else Load("rho", self.rho)
        return Place(load_cluster(self.cluster), self.workload, self.workflows, load)


RUNGS = (
    Rung("tiny-text2sql", "demo", "text2sql", 2, None),
    Rung("tiny-bfcl", "demo", "bfcl", 4, None),
    Rung("tiny-coding", "demo", "coding", 3, None),
    Rung("tiny-sharegpt", "demo", "sharegpt", 6, None),
    Rung("small-text2sql", "homog-h200-llama-70b", "text2sql", 20, 1.0),
    Rung("small-text2sql-burst", "homog-h200-llama-70b", "text2sql", 20, None),
    Rung("small-bfcl", "homog-h200-llama-70b", "bfcl", 20, 1.0),
    Rung("small-bfcl-burst", "homog-h200-llama-70b", "bfcl", 20, None),
    Rung("small-coding", "homog-a100-qwen3-235b", "coding", 20, 1.0),
    Rung("medium-text2sql", "demo", "text2sql", 100, 1.0),
    Rung("medium-text2sql-over", "demo", "text2sql", 100, 1.2),
    Rung("medium-hetero-text2sql", "hetero-1-llama-70b", "text2sql", 100, 1.0),
    Rung("medium-hetero-tot-text", "hetero-1-llama-70b", "tot-text", 100, 1.0),
    Rung("large-bfcl", "hetero-1-llama-70b", "bfcl", 400, 1.2),
    Rung("large-text2sql-0.7", "hetero-1-llama-70b", "text2sql", 400, 0.7),
    Rung("large-text2sql-1.0", "hetero-1-llama-70b", "text2sql", 400, 1.0),
    Rung("large-text2sql-1.2", "hetero-1-llama-70b", "text2sql", 400, 1.2),
)


def load_manifest(folder: Path = FOLDER) -> dict[str, Entry]:
    """Entries by name; none if there is no manifest."""
    path = folder / "manifest.json"
    return {entry["name"]: entry for entry in json.loads(path.read_bytes())["instances"]} if path.is_file() else {}


def load_schedules(name: str, folder: Path = FOLDER) -> dict[str, Schedule]:
    """Best known schedules of an instance by objective, where they were kept."""
    path = folder / "schedules" / f"{name}.json.gz"
    return {objective: _decoded(raw) for objective, raw in json.loads(gzip.decompress(path.read_bytes())).items()}


class Rig:
    """A rung set up: denominators, the instance in hindsight, and ways to run it."""

    def __init__(self, rung: Rung) -> None:
        self.place = rung.place()
        self.workload = self.place.build(rung.seed)
        self.alone_ms = standalone_ms(self.place.cluster, self.workload)
        self.instance = Instance(self.place, rung.seed, self.alone_ms)

    def known(self, policies: Sequence[str] = POLICIES) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        """Stretches of online policies."""
        cluster = self.place.cluster
        return {policy: run_policy(cluster, self.workload, policy, self.alone_ms).stretches for policy in policies}

    def value(self, objective: str, schedule: Schedule) -> float:
        """What a schedule is worth in the simulator."""
        run = replay(self.place.cluster, self.workload, self.instance.ahead, schedule)
        return OBJECTIVES[objective].value(stretches(run.arrival_ms, run.finish_ms, self.alone_ms))


def compute(rung: Rung, limits: Limits, exact_s: float, made: dict[str, str]) -> tuple[Entry, dict[str, Schedule]]:
    """An entry out of nothing, and the schedules behind it; `made` is its command and date."""
    rig = Rig(rung)
    bounds = certified_bounds(rig.instance.problem, NAMES, exact_s=exact_s)
    found = find_schedules(
        rig.instance.ahead,
        rig.instance.simulate,
        [OBJECTIVES[name] for name in NAMES],
        limits,
        known=rig.known(),
        targets={name: bound.value for name, bound in bounds.items()},
        num_replicas=(rig.place.cluster.num_prefill, rig.place.cluster.num_decode),
    )
    entry: Entry = asdict(rung) | {
        "generator": "hexsolve.study.build_workload",
        "digest": rig.workload.digest(),
        "num_calls": rig.workload.num_calls,
        "objectives": {
            name: {
                "bound": {"value": bound.value, "binds": bound.resource, "exact": bound.exact} | made,
                "best": {"value": found.best[name].value, "by": found.best[name].steps[-1].origin} | made,
            }
            for name, bound in bounds.items()
        },
    }
    return entry, {name: schedule for name, best in found.best.items() if (schedule := _schedule(rig, best))}


def merged(old: Entry | None, new: Entry, *, new_bounds: bool = False) -> Entry:
    """The better of both, objective by objective; with `new_bounds` the bounds are those of `new`.

    A bound above a best value cannot be: that is an error.
    """
    if old is None or old["digest"] != new["digest"]:
        return new
    objectives = {}
    for name, fresh in new["objectives"].items():
        there = old["objectives"][name]
        known = [fresh["bound"]] if new_bounds else [there["bound"], fresh["bound"]]
        bound = max(known, key=lambda part: part["value"])
        best = min(there["best"], fresh["best"], key=lambda part: part["value"])
        if bound["value"] > best["value"] * (1 + 1e-9):
            raise ValueError(f"{new['name']}, {name}: bound {bound} above best known {best}: one of them is wrong")
        objectives[name] = {"bound": bound, "best": best}
    return new | {"objectives": objectives}


def rows(entries: Sequence[Entry]) -> list[dict[str, object]]:
    """The ladder as a table."""
    table: list[dict[str, object]] = []
    for entry in entries:
        row: dict[str, object] = {
            "instance": entry["name"],
            "workflows": entry["workflows"],
            "calls": entry["num_calls"],
        }
        row["binds"] = entry["objectives"]["req95"]["bound"]["binds"]
        for name in NAMES:
            bound, best = (entry["objectives"][name][part]["value"] for part in ("bound", "best"))
            row[name] = f"[{bound:.3f}, {best:.3f}] {best / bound - 1:.1%}"
        table.append(row)
    return table


def _schedule(rig: Rig, best: Best) -> Schedule | None:
    return None if best.node is None else best.node.schedule(rig.instance.ahead)


def _encoded(schedule: Schedule) -> dict[str, list[int]]:
    """Ranks say the same as keys."""
    rank = np.empty(len(schedule.key), dtype=np.int64)
    rank[np.argsort(schedule.key, kind="stable")] = np.arange(len(rank))
    held = np.flatnonzero(np.isinf(schedule.hold_ms))
    return {
        "rank": rank.tolist(),
        "prefill": schedule.prefill.tolist(),
        "decode": schedule.decode.tolist(),
        "held": held.tolist(),
        "workflows": [len(schedule.hold_ms)],
    }


def _decoded(raw: dict[str, list[int]]) -> Schedule:
    hold_ms = np.zeros(raw["workflows"][0])
    hold_ms[raw["held"]] = np.inf
    key, prefill, decode = (np.array(raw[name]) for name in ("rank", "prefill", "decode"))
    return Schedule(key.astype(np.float64), prefill, decode, hold_ms)


def _keep(entry: Entry, found: dict[str, Schedule], fresh: Entry, folder: Path) -> None:
    """Manifest, and the schedules of what is best now."""
    entries = load_manifest(folder)
    entries[entry["name"]] = entry
    order = [rung.name for rung in RUNGS]
    content = {"instances": [entries[name] for name in order if name in entries]}
    (folder / "schedules").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "manifest.json", [json.dumps(content, indent=1, ensure_ascii=False).encode(), b"\n"])
    if entry["num_calls"] > MOST_KEPT_CALLS:
        return
    path = folder / "schedules" / f"{entry['name']}.json.gz"
    kept = json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}
    for name in NAMES:
        if entry["objectives"][name]["best"] == fresh["objectives"][name]["best"]:
            kept.pop(name, None)
            if name in found:
                kept[name] = _encoded(found[name])
    text = json.dumps(kept, separators=(",", ":"), sort_keys=True).encode()
    write_atomically(path, [gzip.compress(text, 9, mtime=0)])


def main() -> None:
    """Show the ladder, or recompute and grow it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gap_ladder", description=main.__doc__)
    parser.add_argument("--run", nargs="+", default=[], metavar="NAME", help="names or prefixes of instances")
    parser.add_argument("--budget-s", type=float, default=60.0, help="search per instance")
    parser.add_argument("--exact-s", type=float, default=20.0, help="exact solve per objective of a small instance")
    parser.add_argument("--fresh", action="store_true", help="forget what was there")
    parser.add_argument("--new-bounds", action="store_true", help="forget the bounds that were there")
    arguments = parser.parse_args()
    for rung in RUNGS:
        if not any(rung.name.startswith(wanted) for wanted in arguments.run):
            continue
        command = shlex.join(["python", "-m", "benchmarks.gap_ladder", *sys.argv[1:]])
        made = {"command": command, "date": time.strftime("%Y-%m-%d")}
        started_s = time.monotonic()
        fresh, found = compute(rung, Limits(seconds=arguments.budget_s), arguments.exact_s, made)
        old = None if arguments.fresh else load_manifest().get(rung.name)
        entry = merged(old, fresh, new_bounds=arguments.new_bounds)
        _keep(entry, found, fresh, FOLDER)
        print(f"{rung.name}: {time.monotonic() - started_s:.0f} s", flush=True)
    for row in rows(list(load_manifest().values())):
        print("  ".join(f"{value}" for value in row.values()))


if __name__ == "__main__":
    main()
