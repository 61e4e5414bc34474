"""Bounds that keep the queues, and the search for all that is left of them: proves what is not short of KV."""

from time import perf_counter

from hexsolve.backends.outcome import Limits
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Problem
from hexsolve_models.relaxations import EFFORTS, best_bound

IS_NATIVE = True  # it answers when it is done, which the serving thread cannot wait for
_RESERVE_SHARE, _RESERVE_MAX_MS, _RESERVE_MS = 0.05, 20.0, 2.0  # one step of an ascent, at most
_EFFORT_S = (0.002, 0.02, 0.2)  # nominal seconds from which an effort is worth it


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    started = perf_counter()

    def seconds_left() -> float:
        assert limits.wall_ms is not None
        reserve_ms = min(_RESERVE_SHARE * limits.wall_ms, _RESERVE_MAX_MS) + _RESERVE_MS
        return (limits.wall_ms - reserve_ms) / 1e3 - (perf_counter() - started)

    effort = EFFORTS[-1]
    if limits.deterministic is not None:
        effort = sum(limits.deterministic >= least for least in _EFFORT_S)
    found = best_bound(problem, hint, effort=effort, seconds_left=None if limits.wall_ms is None else seconds_left)
    return Proposal(
        found.decision,
        claimed=float("nan") if found.cost is None else found.cost,
        bound=found.bound,
        detail=f"effort {effort}: {found.which}",
        work=found.work,
    )


def warm_up() -> None:
    """Compile, or load what was compiled."""
    from hexsolve_models.warm import warm_up as warm_bounds
    from hexsolve_models.warm import warm_up_relaxations

    warm_bounds()
    warm_up_relaxations()
