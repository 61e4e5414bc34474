"""Serial schedule generation: an order becomes start ticks. Knows queues and KV profiles; knows no cost and no solver.

Kolisch, "Serial and parallel resource-constrained project scheduling methods revisited" (EJOR 1996), with two stages:
calls come in the given order; each prefills right after the ones before it on its replica, and decodes at the earliest
tick at which its KV fits among everything placed before, gaps allowed. A call that waits for others comes after them:
the order need not respect the edges, `along_edges` repairs it. Caps are not looked at.
"""

from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from hexsolve_models.decision import Decision
from hexsolve_models.flat import Flat
from hexsolve_models.jit import kernel
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

    How long a call decodes depends on how many share its replica. Once all are known, so are the durations. A choice is
    made beside the calls bound to a replica or placed there so far; then everything is timed again with the choices.

    Parameters
    ----------
    order
        Permutation of 0..N-1, most urgent first; see `along_edges` for calls that come before one they wait for.
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
    order = np.array(order, dtype=np.int64)
    if not np.array_equal(np.sort(order), np.arange(problem.num_calls)):
        raise ValueError(f"order = {order.tolist()[:20]}: expected a permutation of 0..{problem.num_calls - 1}")
    order = along_edges(problem, order)
    prefill_out = np.where(problem.is_free, prefill, CHOOSE).astype(np.int64)
    decode_out = np.where(problem.is_free, decode, problem.locked_decode).astype(np.int64)
    is_exact = not problem.is_crowdable or bool((decode_out >= 0).all())
    starts = np.full((2, problem.num_calls), -1, dtype=np.int64)
    core = _core if compiled else _core.__wrapped__  # type: ignore[attr-defined]
    failed = core(problem.flat, order, prefill_out, decode_out, starts)
    if failed >= 0:
        raise ValueError(
            f"call {failed}: no allowed pair of prefill replica {np.asarray(prefill)[failed]} and decode replica "
            f"{np.asarray(decode)[failed]} (-1: any)"
        )
    if not is_exact:
        core(problem.flat, order, prefill_out, decode_out, starts)
    return Decision(prefill_out, decode_out, starts[0], starts[1])


def earliest_finish(problem: Problem, order: npt.ArrayLike, *, compiled: bool = False) -> Decision:
    """List scheduling: each call in turn takes the pair that finishes it first."""
    anywhere = np.full(problem.num_calls, CHOOSE)
    return timetable(problem, order, anywhere, anywhere, compiled=compiled)


def along_edges(problem: Problem, order: Ints) -> Ints:
    """[N] the order with every call that comes too early moved back, right behind the last call it waits for.

    Always the first call of `order` next that waits for no one: an order along the edges stays as it is.
    """
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    if (place[problem.edge_before] < place[problem.edge_after]).all():
        return order
    children: dict[int, list[int]] = {}
    missing = np.bincount(problem.edge_after, minlength=order.size)
    for before, after in zip(problem.edge_before.tolist(), problem.edge_after.tolist(), strict=True):
        children.setdefault(before, []).append(after)
    ready = place[missing == 0].tolist()
    heapify(ready)
    repaired = []
    while ready:
        repaired.append(int(order[heappop(ready)]))
        for child in children.get(repaired[-1], ()):
            missing[child] -= 1
            if missing[child] == 0:
                heappush(ready, int(place[child]))
    return np.array(repaired, dtype=np.int64)


def held_segments(problem: Problem, decode: int) -> tuple[list[int], list[int]]:
    """KV held on one replica as a step function: use[i] blocks on [tick[i], tick[i + 1]), from tick[0] = 0 on."""
    first, last = problem.flat.held_from[decode], problem.flat.held_from[decode + 1]
    return problem.flat.held_tick[first:last].tolist(), problem.flat.held_use[first:last].tolist()


@kernel
def _core(f: Flat, order: Ints, prefill: Ints, decode: Ints, starts: Ints) -> int:
    """Fill `prefill`, `decode` and `starts` [2, N] in place; returns -1, or the call that has no pair."""
    num_decode = f.capacity.size
    # The KV profile of each replica, with room for two more steps per call.
    room = np.max(f.held_from[1:] - f.held_from[:-1]) + 2 * order.size
    tick, use = np.zeros((num_decode, room), np.int64), np.zeros((num_decode, room), np.int64)
    length, count = np.zeros(num_decode, np.int64), np.zeros(num_decode, np.int64)
    for d in range(num_decode):
        for i in range(f.held_from[d], f.held_from[d + 1]):
            tick[d, length[d]], use[d, length[d]] = f.held_tick[i], f.held_use[i]
            length[d] += 1
    free_tick, finish = f.free_tick.copy(), np.zeros(order.size, np.int64)
    for d in decode:
        if d >= 0:
            count[d] += 1
    for c in order:
        release = f.release[c]
        for e in range(f.wait_from[c], f.wait_from[c + 1]):
            release = max(release, finish[f.wait_for[e]] + f.wait_lag[e])
        best_finish, best_start, best_p, best_d = -1, -1, -1, -1
        for d in range(num_decode):
            if f.decode[c, d] < 0 or (decode[c] >= 0 and decode[c] != d):
                continue
            # KV at d: at release if locked, else after the best allowed prefill and its transfer.
            arrival, via = -1, -1
            if f.locked[c] >= 0:
                arrival = release
            for p in range(free_tick.size):
                if f.prefill[c, p] >= 0 and (prefill[c] < 0 or prefill[c] == p):
                    lag = f.base[p, d] + (f.rate[p, d] * f.moved[c] + 1023) // 1024
                    ready = max(free_tick[p], release) + f.prefill[c, p] + lag
                    if arrival < 0 or ready < arrival:
                        arrival, via = ready, p
            if arrival < 0:
                continue
            beside = count[d] if decode[c] >= 0 else count[d] + 1
            ticks = f.decode[c, d] + f.crowding[c, d] * max(0, beside - f.uncrowded[d])
            # Earliest fit: walk the steps of the KV profile and restart after every step that is too full.
            start = arrival
            for i in range(length[d]):
                if tick[d, i] >= start + ticks:
                    break
                is_last = i + 1 == length[d]
                if (is_last or tick[d, i + 1] > start) and use[d, i] + f.blocks[c] > f.capacity[d]:
                    start = tick[d, i + 1]  # the last step is empty, so a full one has a successor
            if best_finish < 0 or start + ticks < best_finish:
                best_finish, best_start, best_p, best_d = start + ticks, start, via, d
        if best_d < 0:
            return int(c)
        if decode[c] < 0:
            count[best_d] += 1
        prefill[c], decode[c], starts[1, c], finish[c] = best_p, best_d, best_start, best_finish
        if f.locked[c] < 0:
            starts[0, c] = max(free_tick[best_p], release)
            free_tick[best_p] = starts[0, c] + f.prefill[c, best_p]
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
                use[best_d, i] += f.blocks[c]
    return -1
