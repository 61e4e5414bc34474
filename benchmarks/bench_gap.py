"""Brackets of whole instances: how far apart are what nobody can beat and what somebody has reached?"""

import time

from benchmarks.gap_ladder import RUNGS, compute, rows
from benchmarks.registry import Rows, benchmark
from hexsolve.clairvoyant import Limits

BUDGET_S = 60.0


def _brackets(prefixes: tuple[str, ...], limits: Limits, exact_s: float) -> Rows:
    """A row per instance whose name begins with one of `prefixes`; nothing that is committed is used."""
    found: Rows = []
    for rung in RUNGS:
        if rung.name.startswith(prefixes):
            started_s = time.perf_counter()
            entry, _ = compute(rung, limits, exact_s, {})
            [row] = rows([entry])
            found.append(row | {"wall_s": time.perf_counter() - started_s})
    return found


@benchmark(
    "gap-small", "Tiny and small instances (2 to 20 workflows): brackets after 60 s of search. Max stretch <= 10 %?"
)
def gap_small(smoke: bool) -> Rows:
    return (
        _brackets(("tiny-bfcl",), Limits(runs=10), 0.0)
        if smoke
        else _brackets(("tiny", "small"), Limits(BUDGET_S), 20.0)
    )


@benchmark("gap-large", "100 and 400 workflows: brackets after 60 s of search. Req95 and Req99 <= 25 % where rho >= 1?")
def gap_large(smoke: bool) -> Rows:
    names = ("tiny-sharegpt",) if smoke else ("medium", "large")
    return _brackets(names, Limits(runs=10) if smoke else Limits(BUDGET_S), 0.0)
