"""Simulated annealing (Kirkpatrick et al., Science 1983) over the moves, within moves or a share of time.

A move that is not accepted is taken back by the journal. Deterministic by seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from hexsolve.jit import leaf, long_kernel
from hexsolve.search.board import ACCEPTED, DECODE, START, Board, Schedule, board_of, schedule_of
from hexsolve.search.moves import below, move, restore
from hexsolve.search.times import begin, open_schedule, rate, settle, undo_prices, undo_times
from hexsolve.tables import Floats, Ints
from hexsolve_models import Decision, Problem, cost

_START_HEAT, _END_HEAT = 3e-3, 1e-6  # accepted loss relative to the cost, at the start and at the end
_CALLS_PER_LOOK = 8192  # moves x calls between two looks at the clock: 0.2-0.5 ms


@leaf
def _keep(s: Schedule, best: Ints) -> None:
    for c in range(s.prefill.shape[0]):
        best[0, c], best[1, c] = s.prefill[c], s.decode[c]
        best[2, c], best[3, c] = s.time[c, START], s.time[c, DECODE]


@leaf
def _meets_caps(b: Board, s: Schedule) -> bool:
    meets = True
    for k in range(1, b.cap.shape[0]):
        meets = meets and bool(s.total[k] <= b.cap[k])
    return meets


@long_kernel
def anneal(
    b: Board, s: Schedule, best: Ints, best_cost: Floats, moves: int, heat: float, before: Ints, totals: Floats
) -> int:
    """`moves` random moves; a dearer schedule is kept with probability exp(-loss / (heat * best cost)).

    Returns the number of new best schedules; the best one is in `best` and `best_cost`.
    """
    stages, found = b.cap.shape[0], 0
    passes = 16 * (1 + b.capacity.shape[0])
    for _ in range(moves):
        begin(s)
        for k in range(stages):
            totals[k, 0], totals[k, 1] = s.total[k], s.own[k]
        count = move(b, s, before)
        if count == 0:
            continue
        is_rated = is_kept = settle(b, s, passes)
        if is_rated:
            rate(b, s)
            loss = s.total[0] - totals[0, 0]
            is_kept = loss <= 0.0 or loss < heat * best_cost[0] * b.chance[below(s, 1024)]
            for k in range(1, stages):
                is_kept = is_kept and s.total[k] <= max(b.cap[k], totals[k, 0])
        if is_kept:
            s.number[ACCEPTED] += 1
            if s.total[0] < best_cost[0] and _meets_caps(b, s):
                best_cost[0] = s.total[0]
                found += 1
                _keep(s, best)
        else:
            if is_rated:
                undo_prices(b, s, totals)
            restore(b, s, before, count)
            undo_times(b, s)
    return found


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    decision : the cheapest within the caps; the hint packed to the left if nothing was found, or the hint itself where
        packing breaks a cap.
    moves, improvements : moves tried in all, and new cheapest decisions among them.
    history : (ms since the start, cost) after each look at the clock that saw a new cheapest decision.
    """

    decision: Decision
    moves: int
    improvements: int
    history: tuple[tuple[float, float], ...] = ()


def search(
    problem: Problem,
    hint: Decision,
    *,
    moves: int,
    seed: int = 0,
    share_used: Callable[[], float] | None = None,
) -> Found:
    """Improve a feasible decision.

    Parameters
    ----------
    moves
        Moves to try at most, >= 1.
    seed
        >= 0. Same problem, hint, moves and seed: same result, unless `share_used` ends it.
    share_used
        Share of the time budget used, 0..1, asked after every few hundred moves; the search stops at 1. None: the
        search cools down over `moves` instead.
    """
    started = perf_counter()
    board = board_of(problem, hint)
    schedule = schedule_of(problem, board, hint, seed)
    best, best_cost = np.zeros((4, problem.num_calls), dtype=np.int64), np.zeros(1)
    before, totals = np.zeros((2, 4), dtype=np.int64), np.zeros((len(board.cap), 2))
    if not open_schedule(board, schedule):
        return Found(hint, 0, 0)
    best_cost[0] = schedule.total[0]
    _keep(schedule, best)
    if (schedule.total[1:] > board.cap[1:]).any():  # KV in another order than the hint's; the search may mend it
        best[:] = hint.prefill, hint.decode, hint.prefill_start, hint.decode_start
        best_cost[0] = cost(problem, hint)
    done = found = 0
    history = [(1e3 * (perf_counter() - started), float(best_cost[0]))]
    moves_per_look = max(16, _CALLS_PER_LOOK // problem.num_calls)
    while done < moves:
        used = done / moves if share_used is None else share_used()
        if used >= 1.0:
            break
        heat = _START_HEAT * (_END_HEAT / _START_HEAT) ** used
        now = min(moves_per_look, moves - done)
        better = anneal(board, schedule, best, best_cost, now, heat, before, totals)
        if better:
            history.append((1e3 * (perf_counter() - started), float(best_cost[0])))
        found, done = found + better, done + now
    prefill_start = np.where(problem.is_free, best[2], -1)
    return Found(Decision(best[0], best[1], prefill_start, best[3]), done, found, tuple(history))
