"""Recorded epochs: moments of simulated clusters at and beyond saturation, by source, cluster size and waiting calls.

Knows how they are recorded, kept on disk and read again; measures nothing. A run begins at ρ = 0.95 of the bottleneck
pool, for two standalone makespans of a median workflow, and goes on at ρ = 2.5 until more calls wait than the largest
size asks for. Of the later moments at which exactly that many calls wait, those kept are spread evenly over the run.
Nothing is cut to size. Placements are HexAGenT's greedy ones, all anew every 50 ms; calls revealed in between join
behind the others.

Seeds below 100 are for tuning, seeds from 1000 on for reporting.
"""

import argparse
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data import data_folder
from benchmarks.history import History, Told, snapshot_file
from benchmarks.scenes import cluster_file
from hexsolve.arrivals import with_arrivals
from hexsolve.atomic import write_atomically
from hexsolve.catalog import library
from hexsolve.cluster import Cluster
from hexsolve.cluster_file import read_cluster_text
from hexsolve.engine import PlacementEngine
from hexsolve.listplan import plan_by_risk, plan_in_order
from hexsolve.load import rate_for
from hexsolve.policy import Plan
from hexsolve.sim import simulate
from hexsolve.snapshot import Snapshot
from hexsolve.snapshot_file import read_snapshot, restore
from hexsolve.study import ArrivalChoice, build_workload, standalone_ms
from hexsolve.tables import UNRANKED, WAIT_PREFILL
from hexsolve.workflow import Workload

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
REPLICAS = (4, 8, 16, 32, 64)  # of each pool


@dataclass(frozen=True, slots=True)
class Source:
    """A workload by name or trace file, and what a decode replica holds where that is less than its GPUs could."""

    workload: str
    kv_tokens: int | None = None


GENERATED = {
    "text2sql": Source("text2sql"),
    "bfcl": Source("bfcl"),
    "mixed": Source("mixed"),
    "coding": Source("coding"),
    "tot-text": Source("tot-text"),
    # Hetero-1's decode replicas hold more than their queues ever ask for; here both pools are short.
    "coding-tight": Source("coding", kv_tokens=196_608),
    "tot-text-tight": Source("tot-text", kv_tokens=65_536),
}
TRACES = {
    "text2sql-trace": Source("text2sql.jsonl"),
    "coding-trace": Source("claudecode_chain.jsonl"),
    "game24-trace": Source("tot_game24.jsonl"),
    "conversation-trace": Source("mooncake_conversation.jsonl"),
}
CALM_LOAD, SURGE_LOAD = 0.95, 2.5
MOMENTS = 2  # of each size in a run
MOST_PER_REPLICA = 64  # waiting calls; the larger sizes belong to larger clusters
COMMITTED = Path(__file__).resolve().parent.parent / "instances" / "epochs"

_COMMITTED_SOURCES = ("text2sql", "bfcl", "coding", "coding-tight", "tot-text-tight")  # the smaller histories
_COMMITTED_SIZES, _COMMITTED_REPLICAS, _COMMITTED_SEED = (8, 16, 32, 64), 8, 0
_FORMAT = 1  # of the cache: raise it when recordings change
_SAMPLE = 60  # workflows that loads and makespans are computed from
_LEAST_CALM_MS = 10_000.0
_EPOCH_MS = 50.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """One recorded moment and its file. `moment` counts those of one size in one run."""

    source: str
    replicas: int
    seed: int
    waiting: int
    moment: int
    path: Path

    @property
    def name(self) -> str:
        """Unique among all recordings."""
        return f"{self.source}-{self.replicas}x{self.replicas}-seed{self.seed}-n{self.waiting}-{self.moment}"

    def snapshot(self) -> Snapshot:
        """The moment, reached through the state's own events."""
        return load(self.path)


@dataclass(frozen=True, slots=True)
class Surge:
    """Poisson arrivals at one rate, and from workflow number `calm` on at another."""

    calm_per_s: float
    surge_per_s: float
    calm: int

    def times_ms(self, num: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Exponential gaps."""
        rates = np.where(np.arange(num) < self.calm, self.calm_per_s, self.surge_per_s)
        return np.cumsum(rng.exponential(1.0, num) * 1e3 / rates)


# -- what there is ----------------------------------------------------------------------------------------------------


def trace_file(source: str) -> Path:
    """Where a real trace lies, if it is there."""
    return data_folder() / "traces" / TRACES[source].workload


def sources() -> tuple[str, ...]:
    """The generated workloads, and the traces that are present."""
    return (*GENERATED, *(name for name in TRACES if trace_file(name).is_file()))


def sizes_of(replicas: int) -> tuple[int, ...]:
    """The numbers of waiting calls that are recorded on a cluster of this size."""
    return tuple(size for size in SIZES if size <= MOST_PER_REPLICA * replicas)


def recorded(source: str, replicas: int, seed: int) -> list[Epoch]:
    """The epochs of one run, from the cache, or recorded now (seconds to minutes)."""
    folder = cache_folder() / f"{source}-{replicas}x{replicas}-seed{seed}"
    if not folder.is_dir():
        _fill(folder, record(source, replicas, seed))
    keys = {path: path.name.partition(".")[0].split("-") for path in sorted(folder.iterdir())}
    return [Epoch(source, replicas, seed, int(size), int(moment), path) for path, (size, moment) in keys.items()]


def cache_folder() -> Path:
    """Where recordings stay between runs: $HEXSOLVE_BENCH_CACHE, or a folder under the system's temporary one."""
    given = os.environ.get("HEXSOLVE_BENCH_CACHE")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"hexsolve-epochs-{_FORMAT}"


def load(path: Path) -> Snapshot:
    """The moment of a snapshot file, gzipped or not."""
    if path.suffix != ".gz":
        saved = read_snapshot(path)
    else:
        with tempfile.NamedTemporaryFile(suffix=".json") as plain:
            plain.write(gzip.decompress(path.read_bytes()))
            plain.flush()
            saved = read_snapshot(plain.name)
    return restore(saved, "workflow-fcfs").state.snapshot(saved.now_ms)


def _fill(folder: Path, files: dict[tuple[int, int], bytes]) -> None:
    """The whole folder or none of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent))
    for (size, moment), content in files.items():
        (part / f"{size:04}-{moment}.json.gz").write_bytes(gzip.compress(content, 6, mtime=0))
    part.rename(folder)


# -- what is committed ------------------------------------------------------------------------------------------------


def committed() -> list[Epoch]:
    """The epochs under instances/epochs."""
    return [_of_entry(entry) for entry in json.loads((COMMITTED / "manifest.json").read_bytes())["files"]]


def commit() -> None:
    """Record the committed epochs anew, and their manifest."""
    COMMITTED.mkdir(exist_ok=True)
    for path in COMMITTED.glob("*.json*"):
        path.unlink()
    entries = []
    for source in _COMMITTED_SOURCES:
        for epoch in recorded(source, _COMMITTED_REPLICAS, _COMMITTED_SEED):
            if epoch.waiting in _COMMITTED_SIZES and epoch.moment == 0:
                path = COMMITTED / f"{epoch.name}.json.gz"
                path.write_bytes(epoch.path.read_bytes())
                entries.append(_entry(epoch, path))
    write_atomically(COMMITTED / "manifest.json", [json.dumps({"files": entries}, indent=2).encode(), b"\n"])


def _entry(epoch: Epoch, path: Path) -> dict[str, object]:
    workload = f"{GENERATED[epoch.source].workload}.jsonl"
    origin = json.loads((COMMITTED.parent / "workloads" / "manifest.json").read_bytes())[workload]
    key = f"[{epoch.waiting}, {epoch.moment}]"
    return {
        "file": path.name,
        "source": origin["source"],
        "licence": origin["licence"],
        "seed": epoch.seed,
        "generator": f"benchmarks.epochs.record({epoch.source!r}, {epoch.replicas}, {epoch.seed}){key}",
        "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        "waiting": epoch.waiting,
        "workload": epoch.source,
        "replicas": epoch.replicas,
        "moment": epoch.moment,
    }


def _of_entry(entry: dict[str, Any]) -> Epoch:
    numbers = entry["replicas"], entry["seed"], entry["waiting"], entry["moment"]
    return Epoch(entry["workload"], *numbers, COMMITTED / entry["file"])


# -- how it is recorded -----------------------------------------------------------------------------------------------


class _Enough(Exception):
    """The run has shown what it was for."""


class _Spread:
    """Up to `2 * want` of the things offered, spread evenly over all that came so far."""

    def __init__(self, want: int) -> None:
        self._want, self._stride, self._offered = want, 1, 0
        self._kept: list[tuple[float, list[Told]]] = []

    def wants_next(self) -> bool:
        self._offered += 1
        return (self._offered - 1) % self._stride == 0

    def keep(self, thing: tuple[float, list[Told]]) -> None:
        self._kept.append(thing)
        if len(self._kept) == 2 * self._want:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def kept(self) -> list[tuple[float, list[Told]]]:
        """At most `want`, evenly."""
        picks = np.linspace(0, len(self._kept) - 1, min(self._want, len(self._kept)))
        return [self._kept[round(pick)] for pick in picks]


class _Thrifty:
    """HexAGenT's greedy every `_EPOCH_MS`; in between new calls go where they finish first, behind all others."""

    name, replans = "hexagent", True

    def __init__(self) -> None:
        self._due_ms = 0.0

    def plan(self, snapshot: Snapshot) -> Plan:
        if snapshot.now_ms >= self._due_ms:
            self._due_ms = snapshot.now_ms + _EPOCH_MS
            return plan_by_risk(snapshot)
        calls = snapshot.calls[snapshot.waiting]
        is_new = calls["rank"] == UNRANKED
        rank = np.where(is_new, len(snapshot.calls) + np.arange(len(calls)), calls["rank"])
        order = np.argsort(rank, kind="stable")
        prefill = np.where(calls["stage"] == WAIT_PREFILL, calls["prefill"], -1)
        return plan_in_order(snapshot, order, prefill=prefill, decode=calls["decode"], rank=rank)


class _Moments(History):
    """Keeps moments at which exactly so many calls wait; ends the run once more wait than the largest size."""

    def __init__(self, engine: PlacementEngine, cluster: Cluster, sizes: Sequence[int], from_ms: float) -> None:
        super().__init__(engine, cluster)
        self.spreads = {size: _Spread(MOMENTS) for size in sizes}
        self._from_ms = from_ms

    def decide(self, now_ms: float) -> Sequence[int]:
        waiting = len(self.engine.state.view(now_ms).waiting)
        if now_ms >= self._from_ms:
            spread = self.spreads.get(waiting)
            if spread is not None and spread.wants_next():
                spread.keep((now_ms, self.events(now_ms)))
            if waiting > 1.1 * max(self.spreads):
                raise _Enough
        return super().decide(now_ms)


def record(source: str, replicas: int, seed: int) -> dict[tuple[int, int], bytes]:
    """Simulate until enough calls wait: (waiting, moment) -> snapshot file."""
    content = cluster_file(replicas, replicas, (GENERATED | TRACES)[source].kv_tokens)
    cluster, sizes = read_cluster_text(json.dumps(content), "bench", ".json", library()), sizes_of(replicas)
    surging = max(sizes)
    while True:
        workload, calm_ms = _surging(source, cluster, surging, seed)
        moments = _Moments(PlacementEngine(cluster, _Thrifty()), cluster, sizes, calm_ms / 2)
        try:
            simulate(cluster, workload, moments)
        except _Enough:
            break
        surging *= 2
    return {
        (size, number): snapshot_file(content, now_ms, events, f"{source}, seed {seed}: {size} calls wait")
        for size, spread in moments.spreads.items()
        for number, (now_ms, events) in enumerate(spread.kept())
    }


def _surging(source: str, cluster: Cluster, surging: int, seed: int) -> tuple[Workload, float]:
    """A workload with so many workflows after the calm, and how long that lasts."""
    sample = _all_at_once(source, cluster, _SAMPLE, seed)
    per_s = rate_for(sample, cluster, 1.0)
    calm_ms = max(_LEAST_CALM_MS, 2 * float(np.median(standalone_ms(cluster, sample))))
    calm = round(CALM_LOAD * per_s * calm_ms / 1e3)
    shape = _all_at_once(source, cluster, calm + surging, seed)
    return with_arrivals(shape, Surge(CALM_LOAD * per_s, SURGE_LOAD * per_s, calm), seed), calm_ms


def _all_at_once(source: str, cluster: Cluster, num_workflows: int, seed: int) -> Workload:
    name = str(trace_file(source)) if source in TRACES else GENERATED[source].workload
    return build_workload(name, num_workflows, seed, cluster=cluster, arrivals=ArrivalChoice("burst"))


def main() -> None:
    """Record ahead of a benchmark, or the committed epochs anew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epochs", description=main.__doc__)
    parser.add_argument("--commit", action="store_true", help="write instances/epochs")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="record runs of these seeds")
    parser.add_argument("--replicas", type=int, nargs="*", default=REPLICAS, help="per pool; default: all")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for replicas in arguments.replicas:
            for source in sources():
                print(f"{source} {replicas}x{replicas} seed {seed}: {len(recorded(source, replicas, seed))} epochs")
    if arguments.commit:
        commit()


if __name__ == "__main__":
    main()
