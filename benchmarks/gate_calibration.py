"""From which budget on is a CP-SAT start worth it? Rows of (size, budget): wall time, late share, improved share.

Run with `python -m benchmarks.gate_calibration [--quick]` from the repository root; the table in `hexsolve/solve.py`
(`GATES`) is read off its output. Knows seeded synthetic epochs only; wall-clock results are this machine's.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np

from hexsolve.solve import Gate, Result, solve, warm_up
from hexsolve_models import Decision, Problem, cost, earliest_finish, power

SIZES = ((4, 4, 4), (8, 4, 4), (8, 8, 8), (16, 4, 4), (16, 8, 8), (32, 8, 8), (64, 8, 8), (128, 8, 8))
BUDGETS_MS = (5, 10, 20, 50, 100, 200, 500)
CANDIDATES = (None, 2)


@dataclass(frozen=True)
class Row:
    """One size, budget and number of candidates per pool (0: all) over several seeds; cost relative to the hint's."""

    calls: int
    prefill: int
    decode: int
    literals: int
    budget_ms: float
    candidates: int
    build_ms_p50: float
    wall_ms_p50: float
    wall_ms_max: float
    late_share: float
    improved_share: float
    optimal_share: float
    relative_cost: float
    relative_bound: float


def synthetic_epoch(seed: int, num_calls: int, num_prefill: int, num_decode: int) -> Problem:
    """A loaded epoch: log-normal prompts and outputs, three GPU speeds, held KV, about two calls per workflow."""
    rng = np.random.default_rng(seed)
    n, p, d = num_calls, num_prefill, num_decode
    prompt = np.clip(rng.lognormal(7.5, 1.0, n), 64, 60_000).astype(np.int64)
    output = np.clip(rng.lognormal(5.0, 0.8, n), 8, 3_000).astype(np.int64)
    blocks = -(-(prompt + output) // 16)
    capacity = rng.choice([7_500, 18_750], d)
    decode = np.ceil(output[:, None] * 30 / rng.choice([1.0, 1.6, 2.4], d)).astype(np.int64)
    held_decode = np.repeat(np.arange(d), 3)
    ends = rng.choice([0.3, 0.5, 1.0], p)[:, None], rng.choice([0.3, 0.5, 1.0], d)[None, :]
    num_workflows = max(1, n // 2)
    horizon = rng.integers(1_500, 8_000, num_workflows)
    return Problem(
        prefill_ticks=np.ceil((15 + prompt[:, None] * 0.12) / rng.choice([1.0, 2.2, 2.4], p)).astype(np.int64),
        locked_decode=np.full(n, -1),
        release_tick=np.zeros(n, dtype=np.int64),
        transfer_base_ticks=np.full((p, d), 35),
        transfer_rate_ticks=np.ceil(164 / np.minimum(*ends)).astype(np.int64),
        transfer_blocks=-(-prompt // 16),
        decode_ticks=np.where(blocks[:, None] <= capacity, decode, -1),
        kv_blocks=blocks,
        kv_capacity=capacity,
        prefill_free_tick=rng.integers(0, 1_500, p),
        held_decode=held_decode,
        held_start=np.zeros(held_decode.size, dtype=np.int64),
        held_end=rng.integers(100, 4_000, held_decode.size),
        held_blocks=np.minimum(rng.integers(50, 3_000, held_decode.size), capacity[held_decode] // 4),
        workflow=np.concatenate([np.arange(num_workflows), rng.integers(0, num_workflows, n - num_workflows)]),
        objective=power(
            (horizon * rng.random(num_workflows) * 1.5).astype(np.int64),
            horizon,
            (rng.random(n) * 3_000).astype(np.int64),
            reference=2.0,
            scale=10**7,
            call_weight=np.ones(n, dtype=np.int64),
        ),
    )


def list_schedule(problem: Problem) -> Decision:
    """The best of three orders, each call at the pair that finishes it first."""
    orders = np.arange(problem.num_calls), np.argsort(problem.kv_blocks), np.argsort(-problem.kv_blocks)
    plans = [earliest_finish(problem, order, compiled=True) for order in orders]
    return min(plans, key=lambda plan: cost(problem, plan))


def measure(size: tuple[int, int, int], budget_ms: float, candidates: int | None, num_seeds: int) -> Row:
    """Solve `num_seeds` epochs of one size with all gates open."""
    gates = (Gate(2**31, 0.0),)
    problems = [synthetic_epoch(seed, *size) for seed in range(num_seeds)]
    hints = [list_schedule(problem) for problem in problems]
    results = [
        solve(problem, budget_ms=budget_ms, hint=hint, candidates=candidates, gates=gates)
        for problem, hint in zip(problems, hints, strict=True)
    ]
    before = np.array([cost(problem, hint) for problem, hint in zip(problems, hints, strict=True)])
    return _row(size, problems, budget_ms, candidates, results, before)


def _row(
    size: tuple[int, int, int],
    problems: list[Problem],
    budget_ms: float,
    candidates: int | None,
    results: list[Result],
    before: np.ndarray,
) -> Row:
    wall = np.array([result.wall_ms for result in results])
    after = np.array([result.objective for result in results])
    return Row(
        *size,
        int(np.mean([problem.prefill_allowed.sum() + problem.decode_allowed.sum() for problem in problems])),
        budget_ms,
        candidates or 0,
        float(np.median([result.build_ms for result in results])),
        float(np.median(wall)),
        float(wall.max()),
        float(np.mean(wall > budget_ms)),
        float(np.mean(after < before)),
        float(np.mean([result.status.name == "OPTIMAL" for result in results])),
        float(np.mean(after / before)),
        float(np.mean([result.bound for result in results] / before)),
    )


def rows(*, quick: bool = False) -> Iterator[Row]:
    """The whole ladder; `quick` keeps two small sizes and budgets, for a smoke test."""
    warm_up()
    for size in SIZES[:2] if quick else SIZES:
        for budget_ms in BUDGETS_MS[2:4] if quick else BUDGETS_MS:
            for candidates in CANDIDATES:
                yield measure(size, budget_ms, candidates, 2 if quick else 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, two budgets, two seeds")
    writer = csv.writer(sys.stdout)
    writer.writerow([field.name for field in fields(Row)])
    for row in rows(quick=parser.parse_args().quick):
        writer.writerow([f"{value:.4g}" for value in asdict(row).values()])


if __name__ == "__main__":
    main()
