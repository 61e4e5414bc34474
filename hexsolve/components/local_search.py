"""Compiled local search (`hexsolve.search`): from 8 calls on the best decisions at every budget below some seconds."""

from collections.abc import Callable
from time import perf_counter

from hexsolve.backends.outcome import Limits
from hexsolve.proposal import Proposal
from hexsolve.search import search
from hexsolve_models import Decision, Problem, earliest_finish

IS_NATIVE = False
_MOVES_PER_S = 500_000  # of 16-64 calls on one quiet core; what a nominal second of work is
_ENDLESS = 2**62


def run(problem: Problem, hint: Decision | None, limits: Limits, is_over: Callable[[], bool] | None = None) -> Proposal:
    """`is_over` ends the search early."""
    started = perf_counter()

    def share_used() -> float:
        if is_over is not None and is_over():
            return 1.0
        return 0.0 if limits.wall_ms is None else (perf_counter() - started) * 1e3 / max(limits.wall_ms, 1e-9)

    moves = _ENDLESS if limits.deterministic is None else max(1, round(limits.deterministic * _MOVES_PER_S))
    if limits.wall_ms is None and limits.deterministic is None and is_over is None:
        moves = _MOVES_PER_S  # a search proves nothing, so it must end by itself
    start = earliest_finish(problem, problem.topological, compiled=True) if hint is None else hint
    is_timed = limits.wall_ms is not None or is_over is not None
    found = search(problem, start, moves=moves, seed=limits.seed, share_used=share_used if is_timed else None)
    return Proposal(
        found.decision,
        detail=f"{found.moves} moves, {found.improvements} improvements",
        work=found.moves / _MOVES_PER_S,
        history=found.history,
    )


def warm_up() -> None:
    """Compile, or load what was compiled."""
    import numpy as np

    from hexsolve_models import total_stretch

    one = np.ones((2, 1), dtype=np.int64)
    problem = Problem(
        prefill_ticks=one, locked_decode=np.array([-1, -1]), release_tick=0 * one[:, 0], transfer_base_ticks=one[:1],
        transfer_rate_ticks=one[:1], transfer_blocks=one[:, 0], decode_ticks=one, kv_blocks=one[:, 0],
        kv_capacity=one[:1, 0], prefill_free_tick=one[:1, 0], held_decode=one[:0, 0], held_start=one[:0, 0],
        held_end=one[:0, 0], held_blocks=one[:0, 0], workflow=np.arange(2),
        objective=total_stretch([0, 0], [1, 1], [0, 0]),
    )  # fmt: skip
    run(problem, None, Limits(wall_ms=None, deterministic=1e-6, seed=0, workers=1))
