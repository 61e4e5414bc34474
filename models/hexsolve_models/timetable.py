"""Serial schedule generation: an order becomes start ticks. Knows queues and KV profiles; knows no cost and no solver.

Kolisch, "Serial and parallel resource-constrained project scheduling methods revisited" (EJOR 1996), with two stages:
calls come in the given order; each prefills right after the ones before it on its replica, and decodes at the earliest
tick at which its KV fits among everything placed before, gaps allowed.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from hexsolve_models.decision import Decision
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem

CHOOSE = -1


def timetable(
    problem: Problem,
    order: npt.ArrayLike,
    prefill: npt.ArrayLike,
    decode: npt.ArrayLike,
    *,
    compiled: bool = False,
) -> Decision:
    """Start every call as early as the calls before it in `order` allow.

    Parameters
    ----------
    order
        Permutation of 0..N-1, most urgent first.
    prefill, decode
        [N] replica of each call; -1 (`CHOOSE`) in either takes the allowed pair, within what the other fixes, that
        finishes first (ties to the lowest decode, then prefill index). Locked calls ignore both.
    compiled
        Run the same function through numba: about 100 times faster, after 1-3 s for the first call of a process
        (cached on disk where numba can write).

    Raises
    ------
    ValueError
        If `order` is no permutation or a call has no allowed pair left.
    """
    order = np.asarray(order, dtype=np.int64)
    if not np.array_equal(np.sort(order), np.arange(problem.num_calls)):
        raise ValueError(f"order = {order.tolist()[:20]}: expected a permutation of 0..{problem.num_calls - 1}")
    prefill_out = np.where(problem.is_free, prefill, CHOOSE).astype(np.int64)
    decode_out = np.where(problem.is_free, decode, problem.locked_decode).astype(np.int64)
    starts = np.full((2, problem.num_calls), -1, dtype=np.int64)
    core = _compiled_core() if compiled else _core
    failed = core(
        order, prefill_out, decode_out, starts[0], starts[1],
        problem.prefill_ticks, problem.prefill_allowed, problem.is_free, problem.release_tick,
        problem.transfer_base_ticks, problem.transfer_rate_ticks, problem.transfer_blocks,
        problem.decode_ticks, problem.decode_allowed, problem.kv_blocks, problem.kv_capacity,
        problem.prefill_free_tick.copy(), *_held_profile(problem),
    )  # fmt: skip
    if failed >= 0:
        raise ValueError(
            f"call {failed}: no allowed pair of prefill replica {np.asarray(prefill)[failed]} and decode replica "
            f"{np.asarray(decode)[failed]} (-1: any)"
        )
    return Decision(prefill_out, decode_out, starts[0], starts[1])


def earliest_finish(problem: Problem, order: npt.ArrayLike, *, compiled: bool = False) -> Decision:
    """List scheduling: each call in turn takes the pair that finishes it first."""
    anywhere = np.full(problem.num_calls, CHOOSE)
    return timetable(problem, order, anywhere, anywhere, compiled=compiled)


def held_segments(problem: Problem, decode: int) -> tuple[list[int], list[int]]:
    """KV held on one replica as a step function: use[i] blocks on [tick[i], tick[i + 1]), from tick[0] = 0 on."""
    here = problem.held_decode == decode
    change: dict[int, int] = {0: 0}
    held = np.stack([problem.held_start, problem.held_end, problem.held_blocks], axis=1)[here]
    for start, end, blocks in held.tolist():
        if end > max(start, 0):
            change[max(start, 0)] = change.get(max(start, 0), 0) + blocks
            change[end] = change.get(end, 0) - blocks
    ticks = sorted(change)
    return ticks, np.cumsum([change[tick] for tick in ticks]).tolist()


def _held_profile(problem: Problem) -> tuple[Ints, Ints, Ints]:
    """[D, room] ticks and uses of `held_segments`, with room for the calls, and [D] lengths."""
    segments = [held_segments(problem, d) for d in range(problem.num_decode)]
    room = max(len(ticks) for ticks, _ in segments) + 2 * problem.num_calls
    tick, use = np.zeros((2, problem.num_decode, room), dtype=np.int64)
    length = np.array([len(ticks) for ticks, _ in segments], dtype=np.int64)
    for d, (ticks, uses) in enumerate(segments):
        tick[d, : length[d]], use[d, : length[d]] = ticks, uses
    return tick, use, length


@cache
def _compiled_core() -> Callable[..., int]:
    from numba import njit

    compiled: Callable[..., int] = njit(cache=True)(_core)
    return compiled


def _core(
    order: Ints, prefill: Ints, decode: Ints, prefill_start: Ints, decode_start: Ints,
    prefill_ticks: Ints, prefill_allowed: npt.NDArray[np.bool_], is_free: npt.NDArray[np.bool_], release: Ints,
    base: Ints, rate: Ints, moved: Ints,
    decode_ticks: Ints, decode_allowed: npt.NDArray[np.bool_], blocks: Ints, capacity: Ints,
    free_tick: Ints, tick: Ints, use: Ints, length: Ints,
) -> int:  # fmt: skip
    """Fill the first rows in place; returns -1, or the call that has no pair.

    One flat function of arrays and loops: numba can then compile and cache the very code that runs without it.
    """
    for c in order:
        best_finish, best_start, best_p, best_d = -1, -1, -1, -1
        for d in range(capacity.size):
            if not decode_allowed[c, d] or (decode[c] >= 0 and decode[c] != d):
                continue
            # KV at d: at release if locked, else after the best allowed prefill and its transfer.
            arrival, via = -1, -1
            if not is_free[c]:
                arrival = release[c]
            for p in range(free_tick.size):
                if prefill_allowed[c, p] and (prefill[c] < 0 or prefill[c] == p):
                    lag = base[p, d] - (-(rate[p, d] * moved[c]) // 1024)
                    ready = max(free_tick[p], release[c]) + prefill_ticks[c, p] + lag
                    if arrival < 0 or ready < arrival:
                        arrival, via = ready, p
            if arrival < 0:
                continue
            # Earliest fit: walk the steps of the KV profile and restart after every step that is too full.
            start = arrival
            for i in range(length[d]):
                if tick[d, i] >= start + decode_ticks[c, d]:
                    break
                is_last = i + 1 == length[d]
                if (is_last or tick[d, i + 1] > start) and use[d, i] + blocks[c] > capacity[d]:
                    start = tick[d, i + 1]  # the last step is empty, so a full one has a successor
            if best_finish < 0 or start + decode_ticks[c, d] < best_finish:
                best_finish, best_start, best_p, best_d = start + decode_ticks[c, d], start, via, d
        if best_d < 0:
            return int(c)
        prefill[c], decode[c], decode_start[c] = best_p, best_d, best_start
        if is_free[c]:
            prefill_start[c] = max(free_tick[best_p], release[c])
            free_tick[best_p] = prefill_start[c] + prefill_ticks[c, best_p]
        # Cut the profile at start and finish, then add the call's blocks in between.
        for cut in (best_start, best_finish):
            n = length[best_d]
            i = n
            while tick[best_d, i - 1] > cut:
                i -= 1
            if tick[best_d, i - 1] < cut:
                for j in range(n, i, -1):
                    tick[best_d, j], use[best_d, j] = tick[best_d, j - 1], use[best_d, j - 1]
                tick[best_d, i], use[best_d, i] = cut, use[best_d, i - 1]
                length[best_d] = n + 1
        for i in range(length[best_d]):
            if best_start <= tick[best_d, i] < best_finish:
                use[best_d, i] += blocks[c]
    return -1
