"""Flexible job shop through the offline CP-SAT formulation: how many published optima are proved, and how soon."""

import json
import tarfile
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.data import data_folder
from benchmarks.registry import Rows, benchmark
from hexsolve.io.fjsp import parse_fjsp
from hexsolve_models.offline.goal import MAX_STRETCH
from hexsolve_models.offline.solve import solve

DATA = data_folder() / "scheduling"
ROWS = Path(__file__).resolve().parent.parent / "build" / "fjsp.jsonl"
LIMIT_S, WORKERS = 60.0, 2
SETS = ("brandimarte", "kacem", "fattahi", "hurink/edata", "hurink/rdata", "hurink/vdata")
SMOKE = ("k1", "sfjs07", "mk01")


@dataclass(frozen=True)
class Instance:
    """One published instance; `optimum` where somebody has proved it, `upper` the best known makespan."""

    name: str
    folder: str
    text: str
    optimum: int | None
    upper: int | None


@dataclass(frozen=True)
class Row:
    """What a run came to: makespan, proved bound, seconds."""

    name: str
    folder: str
    operations: int
    optimum: int | None
    upper: int | None
    makespan: int
    bound: int
    seconds: float


def instances(data: Path = DATA) -> list[Instance]:
    """All instances of the collection, in its order."""
    listed: list[dict[str, Any]] = json.loads((data / "instances.json").read_text(encoding="utf-8"))
    found = []
    with tarfile.open(data / "fjsp_txt.tar.gz") as archive:
        for entry in listed:
            member = archive.extractfile(entry["path"])
            if member is None:
                raise FileNotFoundError(entry["path"])
            upper = entry["optimum"] or (entry.get("bounds") or {}).get("upper")
            folder = entry["path"].rpartition("/")[0]
            found.append(Instance(entry["name"], folder, member.read().decode(), entry["optimum"], upper))
    return found


def chosen(found: list[Instance]) -> list[Instance]:
    """Brandimarte, Kacem and Fattahi, and Hurink's mt and la01 to la20, wherever an optimum is published."""
    return [i for i in found if i.optimum is not None and i.folder in SETS and _is_small(i)]


def _is_small(instance: Instance) -> bool:
    label = instance.name.partition("-")[2]
    return not label or label.startswith("mt") or (label.startswith("la") and int(label[2:]) <= 20)


def measure(instance: Instance, limit_s: float) -> Row:
    """Solve one instance.

    Raises
    ------
    AssertionError
        If a bound is above the best published makespan. A makespan below it is a schedule that the referee has checked.
    """
    problem = parse_fjsp(instance.text, instance.name)
    started = perf_counter()
    outcome = solve(problem, MAX_STRETCH, limit_s=limit_s, workers=WORKERS)
    seconds = perf_counter() - started
    makespan, bound = int(outcome.objective), -(-outcome.bound // Fraction(1))
    if instance.upper is not None and bound > instance.upper:
        raise AssertionError(f"{instance.name}: bound {bound} above the published makespan {instance.upper}")
    shape = problem.num_calls, instance.optimum, instance.upper
    return Row(instance.name, instance.folder, *shape, makespan, int(bound), seconds)


@benchmark("fjsp", "Published flexible job-shop optima: how many are proved within 60 s? Rows go to build/fjsp.jsonl")
def fjsp(smoke: bool) -> Rows:
    """A row per set; rows per instance are kept in build/fjsp.jsonl, so that a run goes on where it stopped."""
    if not DATA.is_dir():
        return [{"set": "none", "why": f"the published instances are not at {DATA}"}]
    found = instances()
    if smoke:
        return _table([measure(i, LIMIT_S) for i in found if i.name in SMOKE])
    done = {row.name: row for row in _read(ROWS)}
    ROWS.parent.mkdir(exist_ok=True)
    for instance in chosen(found):
        if instance.name not in done:
            row = done[instance.name] = measure(instance, LIMIT_S)
            with ROWS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    return _table([done[instance.name] for instance in chosen(found)])


def _read(path: Path) -> list[Row]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Row(**json.loads(line)) for line in lines]


def _table(rows: list[Row]) -> Rows:
    groups = {folder: [row for row in rows if row.folder == folder] for folder in SETS}
    return [_summary(folder, group) for folder, group in [*groups.items(), ("all", rows)] if group]


def _summary(folder: str, rows: list[Row]) -> dict[str, object]:
    proved = [row for row in rows if row.makespan == row.bound == row.optimum]
    return {
        "set": folder,
        "instances": len(rows),
        "proved optimal": len(proved),
        "found, not proved": sum(row.makespan == row.optimum > row.bound for row in rows if row.optimum is not None),
        "below published": " ".join(
            f"{row.name} {row.bound}..{row.makespan} (published {row.optimum})"
            for row in rows
            if row.optimum is not None and row.makespan < row.optimum
        )
        or "-",
        "median s": sorted(row.seconds for row in rows)[len(rows) // 2],
        "open": " ".join(f"{row.name} {row.bound}..{row.makespan}" for row in rows if row not in proved) or "-",
    }
