"""Worker processes: round trips by size of the message, time to a replacement, memory over many jobs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil

from benchmarks.registry import Rows, benchmark
from benchmarks.timing import wall_ms
from hexsolve.workers import WorkerPool

_LIMIT_S = 60.0
_TARGET_MS = {1_000: "", 31_000: 0.5, 120_000: 1.0, 1_000_000: 5.0}


def echo(value: object) -> object:
    """What the worker does with a message here: send it back."""
    return value


@dataclass(frozen=True, slots=True)
class Soak:
    """Resident memory in bytes of this process and of the worker, after a tenth of the jobs and after all."""

    jobs: int
    parent_before: int
    parent_after: int
    worker_before: int
    worker_after: int


def soak(jobs: int) -> Soak:
    """Send `jobs` arrays of 0-120 kB to one worker and back; one in ten is abandoned and comes back late."""
    sizes = np.random.default_rng(0).integers(0, 15_000, jobs)
    with WorkerPool() as pool:
        worker = _only_worker(pool)
        seen = []
        for i, size in enumerate(sizes):
            _wait_until_idle(pool)
            job = pool.submit("benchmarks.bench_workers:echo", np.zeros(size))
            if i % 10 == 9:
                job.abandon(_LIMIT_S)
            elif not job.poll(_LIMIT_S) or len(job.result()) != size:
                raise RuntimeError(f"job {i} has not come back")
            if i + 1 in (jobs // 10, jobs):
                _wait_until_idle(pool)
                seen.append((psutil.Process().memory_info().rss, worker.memory_info().rss))
        (parent_before, worker_before), (parent_after, worker_after) = seen
        if pool.stats.started != 1:
            raise RuntimeError(f"the worker has been replaced: {pool.stats}")
    return Soak(jobs, parent_before, parent_after, worker_before, worker_after)


def _only_worker(pool: WorkerPool) -> psutil.Process:
    _wait_until_idle(pool)
    job = pool.submit("os:getpid")
    if not job.poll(_LIMIT_S):
        raise RuntimeError(f"no answer: {pool.stats}")
    return psutil.Process(job.result())


def _wait_until_idle(pool: WorkerPool) -> None:
    until = time.monotonic() + _LIMIT_S
    while not pool.idle:
        if time.monotonic() > until:
            raise RuntimeError(f"no worker: {pool.stats}")
        time.sleep(1e-4)


@benchmark("worker-round-trip", "How long does a message take to a worker and back?")
def round_trip(smoke: bool) -> Rows:
    rows: Rows = []
    with WorkerPool() as pool:
        _only_worker(pool)
        for size, target in _TARGET_MS.items():
            message = np.zeros(size // 8)

            def there_and_back(message: np.ndarray = message) -> None:
                job = pool.submit("benchmarks.bench_workers:echo", message)
                if not job.poll(_LIMIT_S):
                    raise RuntimeError(f"no answer: {pool.stats}")
                job.result()

            times = wall_ms(there_and_back, 20 if smoke else 3000)
            figures = {f"p{q}_ms": float(np.percentile(times, q)) for q in (10, 50, 90, 99)}
            rows.append({"message_bytes": size, **figures, "target_ms": target})
    return rows


@benchmark("worker-replacement", "How soon is a killed worker replaced, and how long do callers stand still meanwhile?")
def replacement(smoke: bool) -> Rows:
    gone_ms, still_ms, usual_ms = [], [], []
    with WorkerPool() as pool:
        for _ in range(1 if smoke else 20):
            _wait_until_idle(pool)
            pool.submit("time:sleep", 1000.0).abandon(0.0)
            gone, still = _stand_still_ms(lambda: pool.idle > 0)
            gone_ms.append(gone)
            still_ms.append(still)
            until = time.perf_counter() + gone / 1e3  # as long again, to see what the machine alone does
            usual_ms.append(_stand_still_ms(lambda until=until: time.perf_counter() >= until)[1])
            pool.submit("benchmarks.bench_workers:echo", 0).poll(_LIMIT_S)  # an answer ends the back-off
    columns = {"until_idle": gone_ms, "caller_stood_still": still_ms, "stood_still_without": usual_ms}
    return [{"what": name, "median_ms": float(np.median(t)), "max_ms": max(t)} for name, t in columns.items()]


def _stand_still_ms(done: Callable[[], bool]) -> tuple[float, float]:
    """Time until `done`, and the longest that a caller who looks every 0.2 ms did not get to look, both in ms."""
    started = before = time.perf_counter()
    longest = 0.0
    while not done():
        time.sleep(2e-4)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    return 1e3 * (before - started), 1e3 * longest


@benchmark("worker-soak", "Does memory stay flat over 10,000 jobs?")
def memory(smoke: bool) -> Rows:
    result = soak(100 if smoke else 10_000)
    pairs = {
        "parent": (result.parent_before, result.parent_after),
        "worker": (result.worker_before, result.worker_after),
    }
    return [
        {
            "process": name,
            "jobs": result.jobs,
            "before_mib": before / 2**20,
            "after_mib": after / 2**20,
            "growth_percent": 100.0 * (after / before - 1.0),
        }
        for name, (before, after) in pairs.items()
    ]
