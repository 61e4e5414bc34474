"""The anytime solver as a service: under a busy neighbour, and over many epochs."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from itertools import cycle, islice

import numpy as np
import psutil

from benchmarks.anytime import REPORTING_SEED
from benchmarks.anytime_tables import limit_ms
from benchmarks.epochs import Epoch, committed, recorded
from benchmarks.registry import Rows, benchmark
from hexsolve.policies.solver import SolverPolicy
from hexsolve.snapshot import Snapshot

_SETS = ((8, 8), (64, 8), (256, 16), (1024, 64))  # waiting calls, replicas per pool
_SOURCES = ("text2sql", "coding-tight", "tot-text")
_DECISIONS = {5.0: 200, 20.0: 200, 50.0: 100, 200.0: 40, 1000.0: 10}  # by budget
_PAUSE_S = 0.01


@benchmark("anytime-busy", "Is a decision late beside a busy process, or a busy thread of the same interpreter?")
def busy(smoke: bool) -> Rows:
    sets = {(8, 8): committed()[:2]} if smoke else {key: _epochs(*key) for key in _SETS}
    counts = {5.0: 3, 20.0: 3} if smoke else _DECISIONS
    rows: Rows = []
    for (waiting, replicas), epochs in sets.items():
        snapshots = [epoch.snapshot() for epoch in epochs]
        for budget_ms, count in counts.items():
            policy = SolverPolicy(budget_ms=budget_ms)
            policy.warm_up()
            with closing(policy):
                decisions_ms(policy, snapshots, len(snapshots))  # for nothing: something may have to be loaded yet
                for name, neighbour in _NEIGHBOURS.items():
                    with neighbour():
                        walls = np.array(decisions_ms(policy, snapshots, count))
                    rows.append(
                        {
                            "waiting": waiting,
                            "replicas": f"{replicas}x{replicas}",
                            "budget_ms": budget_ms,
                            "beside": name,
                            "decisions": count,
                            "p50_ms": float(np.median(walls)),
                            "p99_ms": float(np.percentile(walls, 99)),
                            "max_ms": float(walls.max()),
                            "limit_ms": limit_ms(budget_ms),
                            "late": f"{np.mean(walls > limit_ms(budget_ms)):.1%}",
                        }
                    )
    return rows


@benchmark("anytime-soak", "Does memory stay flat within 5 % over 10,000 solver epochs?")
def soak(smoke: bool) -> Rows:
    epochs = 200 if smoke else 10_000
    snapshots = [epoch.snapshot() for epoch in committed()]
    policy = SolverPolicy(budget_ms=20.0)
    policy.warm_up()
    marks = [epochs // 10, epochs // 2, epochs]
    own, workers = [], []
    started = time.monotonic()
    with closing(policy):
        for done, snapshot in enumerate(islice(cycle(snapshots), epochs), start=1):
            policy.plan(snapshot)
            if done in marks:
                policy.warm_up()  # a worker that was replaced just now is not missing from the sum
                own.append(_resident_mib(psutil.Process()))
                workers.append(sum(map(_resident_mib, psutil.Process().children(recursive=True))))
    seconds = time.monotonic() - started
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(policy.outcomes.items()))
    rows: Rows = []
    for what, sizes in (("serving process", own), ("worker", workers)):
        growth = max(sizes) / max(1.0, sizes[0]) - 1.0
        rows.append(
            {"process": what, "epochs": epochs, "seconds": seconds}
            | {f"MiB after {mark}": size for mark, size in zip(marks, sizes, strict=True)}
            | {"growth": f"{growth:.1%}", "flat within 5 %": "yes" if growth <= 0.05 else "NO", "outcomes": outcomes}
        )
    return rows


def decisions_ms(policy: SolverPolicy, snapshots: Sequence[Snapshot], count: int) -> list[float]:
    """Wall times of `count` decisions on the snapshots in turn, with pauses, none with an earlier plan."""
    walls = []
    for snapshot in islice(cycle(snapshots), count):
        time.sleep(_PAUSE_S)
        policy._last = None  # plans of other recordings are no earlier plans of this one
        started = time.perf_counter()
        policy.plan(snapshot)
        walls.append(1e3 * (time.perf_counter() - started))
    return walls


def _epochs(waiting: int, replicas: int) -> list[Epoch]:
    runs = [recorded(source, replicas, REPORTING_SEED) for source in _SOURCES]
    return [epoch for run in runs for epoch in run if epoch.waiting == waiting]


def _resident_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


@contextmanager
def _busy_process() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _busy_thread() -> Iterator[None]:
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


_NEIGHBOURS: dict[str, type[AbstractContextManager[None]]] = {
    "nobody": nullcontext,
    "a busy process": _busy_process,  # type: ignore[dict-item]
    "a busy thread": _busy_thread,  # type: ignore[dict-item]
}
