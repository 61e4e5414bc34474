"""Rents: what a place on a decode replica is worth when every call there slows down all. Knows `Pool`; knows no prefill
queue and no clock. Proofs: models/README.md §11.4.

The number of calls on a replica ties them all together. Without that tie a call pays a rent for its place and for how
few others it wants beside it, and a replica takes the calls that pay most. Rents are fitted to the incumbent's
prefills.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve_models.alone import NEVER, bound_here_of
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.relaxations.pool import Pool
from hexsolve_models.relaxations.prices import Bends, Floats, Menu

MOST_PLACES = 2**17  # calls times replicas up to which rents are fitted: about 10 ms per step
_MEMORY, _PATIENCE, _SHRINK = 0.85, 10, 0.8
_MOST = 2.0**30  # rents stay below, so that sums of them are exact
_RELIEF = 256.0  # reliefs are multiples of its inverse


@dataclass(frozen=True, eq=False)
class Rents:
    """What calls may choose from at fixed rents, and the most that replicas can take, in price units."""

    menu: Menu
    price: Floats  # [M, D] of a place beside as few others as possible
    taken: float


def fit_rents(pool: Pool, share: Floats, most_steps: int) -> Rents | None:
    """Rents that nearly explain the incumbent's decode replicas; None where no call slows down another, or for many.

    Parameters
    ----------
    share
        [M, LEVELS] see `Pool.prices`.
    """
    problem = pool.problem
    calls = pool.calls
    if not problem.is_crowdable or calls.size * problem.num_decode > MOST_PLACES:
        return None
    count = bound_here_of(problem)[None, :] + np.arange(calls.size + 1)[:, None]
    excess = np.maximum(0, count - problem.uncrowded_calls)  # [calls taken, D]
    taken_now = np.bincount(pool.incumbent.decode[calls], minlength=problem.num_decode)
    usual = np.maximum(excess[1], excess[taken_now, np.arange(problem.num_decode)])
    crowding = crowding_of(pool)
    rent, relief = np.zeros(crowding.shape), np.zeros(calls.size)
    _fit(
        most_steps, share, pool.level, pool.flow, pool.tail, pool.alone, pool.own, pool.latest, pool.bends,
        _first_finishes(pool), crowding, excess, usual,
        pool.incumbent.decode[calls], pool.incumbent.decode_finish(problem)[calls], _slowed(pool, excess), rent, relief,
    )  # fmt: skip
    rent = np.floor(np.clip(rent, -_MOST, _MOST))
    relief = np.floor(np.minimum(relief, _MOST / max(1, int((crowding * excess[-1]).max()))) * _RELIEF) / _RELIEF
    taken = _most_taken(rent, relief, crowding, excess, usual, _slowed(pool, excess))
    price = rent + relief[:, None] * np.maximum(0, crowding) * (usual - excess[1])
    most = np.where(relief > 0.0, (crowding * (excess[-1] - excess[1])).max(axis=1), 0)
    return Rents(_menu(pool.by_decode, price, relief, most), price, float(np.ceil(taken)))


def crowding_of(pool: Pool) -> Ints:
    """[M, D] ticks by which each call too many slows down a call; -1 where it may not decode."""
    calls = pool.calls
    ticks: Ints = np.ascontiguousarray(
        np.where(pool.problem.decode_allowed[calls], pool.problem.flat.crowding[calls], -1)
    )
    return ticks


def _slowed(pool: Pool, excess: Ints) -> Floats:
    """[calls taken, D] price of what locked calls are slowed down, as far as each is alone in its workflow."""
    price = np.zeros(excess.shape)
    count = np.bincount(pool.problem.workflow, minlength=pool.problem.num_workflows)
    for c in np.flatnonzero(~pool.problem.is_free & (count[pool.problem.workflow] == 1)).tolist():
        d, w = pool.problem.locked_decode[c], pool.problem.workflow[c]
        gone = pool.problem.crowding_ticks[c, d] * (excess[:, d] - excess[0, d])
        tick, cost, slope = pool.bends
        now = tick[w, 0] + gone
        bend = np.searchsorted(tick[w], now, side="right") - 1
        later = np.floor(slope[w, bend] * (now - tick[w, bend]))
        price[:, d] += np.minimum(cost[w, bend] + later, _MOST)
    return price


def _first_finishes(pool: Pool) -> Ints:
    """[M, D] first finish on each replica after the incumbent's prefill."""
    m = np.arange(pool.calls.size)
    prefill = pool.incumbent.prefill[pool.calls]
    end = pool.incumbent.prefill_start[pool.calls] + pool.problem.prefill_ticks[pool.calls, prefill]
    kind = pool.kind[prefill]
    finish: Ints = np.maximum(end[:, None] + pool.by_decode[kind, m], pool.earliest[kind, m][:, None])
    return finish


def _menu(after: Ints, price: Floats, relief: Floats, most: Ints) -> Menu:
    """By time after the prefill; what takes longer and costs no less is left out."""
    order = np.argsort(after, axis=2, kind="stable")
    after = np.take_along_axis(after, order, axis=2)
    price = np.take_along_axis(np.broadcast_to(price, after.shape), order, axis=2)
    cheapest = np.minimum.accumulate(np.where(after < NEVER, price, np.inf), axis=2)
    is_kept = after < NEVER
    is_kept[:, :, 1:] &= price[:, :, 1:] < cheapest[:, :, :-1]
    kept = np.argsort(~is_kept, axis=2, kind="stable")
    return Menu(
        np.ascontiguousarray(np.take_along_axis(after, kept, axis=2)),
        np.ascontiguousarray(np.take_along_axis(price, kept, axis=2)),
        is_kept.sum(axis=2),
        relief,
        most,
    )


@kernel
def _most_taken(rent: Floats, relief: Floats, crowding: Ints, excess: Ints, usual: Ints, slowed: Floats) -> float:
    """Sum over the replicas of the most that any number of calls would pay there, less what they cost locked ones."""
    total = 0.0
    order, bid = np.zeros(rent.shape[0], np.int64), np.zeros(rent.shape[0])
    for d in range(rent.shape[1]):
        size = 0
        for m in range(rent.shape[0]):
            if crowding[m, d] >= 0:
                order[size] = m
                size += 1
        best = 0.0
        for n in range(1, size + 1):
            away = usual[d] - excess[n, d]
            for i in range(size):
                m = order[i]
                bid[m] = rent[m, d] + relief[m] * crowding[m, d] * away
                # Bids are lines in `away`: two calls change places once, so that sorting anew is cheap.
                j = i
                while j > 0 and bid[order[j - 1]] < bid[m]:
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = m
            paid = -slowed[n, d]
            for i in range(n):
                paid += bid[order[i]]
            best = max(best, paid)
        total += best
    return total


@kernel
def _fit(
    most_steps: int, share: Floats, level: Floats, flow: Ints, tail: Ints, alone: Ints, own: Floats, latest: Ints,
    bends: Bends, first: Ints, crowding: Ints, excess: Ints, usual: Ints,
    home: Ints, finish: Ints, slowed: Floats, rent: Floats, relief: Floats,
) -> None:  # fmt: skip
    """Subgradient steps on `rent` [M, D] and `relief` [M], both filled with the best found.

    Finishes a call may want: as soon as it can be on a replica, as late as crowding can make it, and where its price
    bends in between.
    """
    num_calls, num_decode = crowding.shape
    curve_tick, curve_price, curve_slope = bends
    num_bends = curve_tick.shape[1]
    most_wants = 2 * (num_bends + num_decode) + 1
    at, worth = np.zeros((num_calls, most_wants), np.int64), np.zeros((num_calls, most_wants))
    wants = np.zeros(num_calls, np.int64)
    last = np.zeros((num_calls, num_decode), np.int64)
    unit = np.ones(num_calls)
    target = 0.0
    for m in range(num_calls):
        w, size, soonest, latest_of_all = flow[m], 0, np.int64(NEVER), np.int64(0)
        for d in range(num_decode):
            last[m, d] = max(first[m, d], min(latest[m], first[m, d] + crowding[m, d] * (excess[-1, d] - excess[1, d])))
            if crowding[m, d] >= 0:
                soonest, latest_of_all = min(soonest, first[m, d]), max(latest_of_all, last[m, d])
                at[m, size], at[m, size + 1] = first[m, d], last[m, d]
                size += 2
                unit[m] = max(unit[m], float(crowding[m, d] * max(1, usual[d] - excess[1, d])))
        for q in range(num_bends):
            for now in (curve_tick[w, q] - tail[m] - 1, curve_tick[w, q] - tail[m]):
                if soonest < now < latest_of_all:
                    at[m, size] = now
                    size += 1
        at[m, size], wants[m] = finish[m], size
        slope, part = 0.0, 0
        for i in range(size + 1):
            now, q = at[m, i] + tail[m], 0
            while q + 1 < num_bends and curve_tick[w, q + 1] <= now:
                q += 1
            price, slope, part = (
                curve_price[w, q] + curve_slope[w, q] * max(0, now - curve_tick[w, q]),
                curve_slope[w, q],
                0,
            )
            for p in range(share.shape[1]):
                worth[m, i] += share[m, p] * min(max(0.0, price - level[p]), level[p + 1] - level[p])
                part = p if price >= level[p] else part
            worth[m, i] += own[m] * max(0, at[m, i] - alone[m])
        target += worth[m, size]
        # To begin with half of what the incumbent's finish suggests: the slope there, and what it costs the others.
        relief[m] = 0.5 * (slope * share[m, part] + own[m])
    for m in range(num_calls):
        d = home[m]
        if usual[d] > excess[1, d]:
            for c in range(num_calls):
                rent[c, d] += 0.5 * relief[m] * crowding[m, d]
    best, failed, length = -np.inf, 0, 1.0
    best_rent, best_relief = rent.copy(), relief.copy()
    up, over = np.zeros((num_calls, num_decode)), np.zeros(num_calls)
    steep, tilt = np.zeros((num_calls, num_decode)), np.zeros(num_calls)
    order, chosen, bid = np.zeros(num_calls, np.int64), np.zeros(num_calls, np.int64), np.zeros(num_calls)
    for _ in range(most_steps):
        value = 0.0
        steep[:], tilt[:] = 0.0, 0.0
        for d in range(num_decode):
            size, most, number = 0, 0.0, 0
            for m in range(num_calls):
                if crowding[m, d] >= 0:
                    order[size] = m
                    size += 1
            for n in range(1, size + 1):
                away, paid = usual[d] - excess[n, d], -slowed[n, d]
                for i in range(size):
                    m, j = order[i], i
                    bid[m] = rent[m, d] + relief[m] * crowding[m, d] * away
                    while j > 0 and bid[order[j - 1]] < bid[m]:
                        order[j] = order[j - 1]
                        j -= 1
                    order[j] = m
                for i in range(n):
                    paid += bid[order[i]]
                if paid > most:
                    most, number = paid, n
                    chosen[:size] = order[:size]
            value -= most
            for i in range(number):
                m = chosen[i]
                steep[m, d] -= 1.0
                tilt[m] -= crowding[m, d] * (usual[d] - excess[number, d]) / unit[m]
        for m in range(num_calls):
            cheapest, where, held_up = np.inf, 0, 0
            for d in range(num_decode):
                if crowding[m, d] < 0:
                    continue
                fixed = rent[m, d] + relief[m] * crowding[m, d] * (usual[d] - excess[1, d])
                for i in range(wants[m]):
                    if first[m, d] <= at[m, i] <= last[m, d]:
                        price = worth[m, i] - relief[m] * (at[m, i] - first[m, d]) + fixed
                        if price < cheapest:
                            cheapest, where, held_up = price, d, at[m, i] - first[m, d]
            value += cheapest
            steep[m, where] += 1.0
            tilt[m] += (crowding[m, where] * (usual[where] - excess[1, where]) - held_up) / unit[m]
        if value > best:
            best, failed = value, 0
            best_rent[:], best_relief[:] = rent, relief
        else:
            failed += 1
            if failed == _PATIENCE:
                failed, length = 0, length * _SHRINK
        norm = 0.0
        for m in range(num_calls):
            over[m] = tilt[m] + _MEMORY * over[m]
            norm += over[m] * over[m]
            for d in range(num_decode):
                up[m, d] = steep[m, d] + _MEMORY * up[m, d]
                norm += up[m, d] * up[m, d]
        if norm == 0.0:
            break
        ahead = length * max(target - value, 1.0) / norm
        for m in range(num_calls):
            relief[m] = max(0.0, relief[m] + ahead * over[m] / unit[m])
            for d in range(num_decode):
                rent[m, d] += ahead * up[m, d]
    rent[:], relief[:] = best_rent, best_relief
