"""Certified bounds of an instance by objective, and what makes them so, in words. Knows bounds; simulates nothing.

All bounds are those of `hexsolve_models.offline.bounds`; for an instance of a few calls the optimum of the offline
problem is computed as well, which is a bound like the others, and a better one.
"""

import time
from collections.abc import Sequence
from fractions import Fraction
from math import inf, nextafter

import msgspec

from hexsolve_models.offline import OfflineProblem
from hexsolve_models.offline.bounds import InstanceBounds, RatioBound, Window

TICK_MS = 0.1
MOST_EXACT_CALLS = 60
"""Above this many calls no exact solve is tried: in a minute it would not get near what the windows prove."""

SHARES = {"req95": Fraction(95, 100), "req99": Fraction(99, 100), "max_stretch": Fraction(1)}
"""Share of the workflows that have to make it, by objective that is an order statistic."""

_POOLS = {
    "prefill": "the prefill pool",
    "decode": "the decode pool",
    "kv": "the KV memory of the decode pool",
}


class BoundRecord(msgspec.Struct, frozen=True):
    """No schedule at all has a smaller figure.

    Attributes
    ----------
    value : the bound, rounded down. path : what each workflow by itself already makes necessary.
    resource : what binds, ``prefill``, ``decode``, ``kv`` or ``path``. reason : the same as part of a sentence.
    at_s : when it was there, in seconds from the start.
    exact : whether it is the optimum of the offline problem, proved.
    """

    value: float
    path: float
    resource: str
    reason: str
    at_s: float = 0.0
    exact: bool = False


def certified_bounds(
    problem: OfflineProblem, objectives: Sequence[str], *, exact_s: float = 0.0, seed: int = 0
) -> dict[str, BoundRecord]:
    """The best bound of each objective.

    Parameters
    ----------
    objectives : of `SHARES`, and ``mean_stretch``.
    exact_s : seconds for an exact solve of each objective, tried on at most `MOST_EXACT_CALLS` calls; 0: none.
    """
    started_s = time.monotonic()
    instance = InstanceBounds(problem)
    found = {}
    for name in objectives:
        bound = instance.req(SHARES[name]) if name in SHARES else instance.mean_stretch()
        found[name] = BoundRecord(bound.alpha, bound.path, bound.resource, _reason(bound), time.monotonic() - started_s)
    if problem.num_calls <= MOST_EXACT_CALLS and exact_s > 0.0:
        for name in objectives:
            found[name] = _sharpened(problem, name, found[name], exact_s, seed, started_s)
    return found


def _sharpened(
    problem: OfflineProblem, name: str, known: BoundRecord, limit_s: float, seed: int, started_s: float
) -> BoundRecord:
    """The bound of an exact solve, where it is better."""
    from hexsolve_models.offline import goal
    from hexsolve_models.offline.solve import solve

    aim = goal.req(SHARES[name]) if name in SHARES else goal.MEAN_STRETCH
    outcome = solve(problem, aim, limit_s=limit_s, seed=seed)
    proved, value = outcome.status == "OPTIMAL", _down(outcome.bound)
    if value <= known.value:
        return known
    return msgspec.structs.replace(
        known, value=value, reason=_EXACT if proved else known.reason, at_s=time.monotonic() - started_s, exact=proved
    )


_EXACT = "of everything together: this is the optimum of the instance, with decodes at their best and no contention"


def _down(value: Fraction) -> float:
    near = float(value)
    return near if Fraction(near) <= value else nextafter(near, -inf)


def _reason(bound: RatioBound) -> str:
    """Why, as the end of a sentence that begins with "because of"."""
    if bound.resource == "path":
        return "each workflow's own critical path; no pool is provably short of anything"
    what = _POOLS[bound.resource]
    window = next((window for window in bound.windows if window.resource == bound.resource), None)
    return what if window is None else f"{what}: {_in_window(window)}"


def _in_window(window: Window) -> str:
    first, last = (tick * TICK_MS / 1e3 for tick in (window.start, window.end))
    return f"between {first:.1f} s and {last:.1f} s it would need {window.load:.0%} of it to have everybody on time"
