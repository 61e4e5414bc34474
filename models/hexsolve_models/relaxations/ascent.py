"""Lagrangian bound of the prefill pool: multipliers for the calls, cheapest queues for the machines. Knows `Pool`;
knows no problem and no clock. Proofs: models/README.md §11.2 and §11.3.

Without "every call exactly once" the machines part: each takes the queue with the least price minus multipliers, which
may repeat a call, though not twice in a row. The bound is what they pay plus the multipliers; subgradient steps raise
it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hexsolve_models.alone import NEVER
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.relaxations.pool import Pool
from hexsolve_models.relaxations.prices import FORBIDDEN, LEVELS, Floats, fill_finishes, rounded_shares
from hexsolve_models.relaxations.rents import Rents
from hexsolve_models.relaxations.sharing import Sharing

_MOST = 2.0**30  # multipliers stay below, so that no sum along a queue loses a digit
_LEAST_VALUE = -(2.0**52)
_MEMORY = 0.85  # how much of the last direction the next one keeps
_PATIENCE, _SHRINK = 10, 0.7  # steps without a better bound before they get shorter, and by how much


@dataclass(frozen=True, eq=False)
class Multipliers:
    """[M] what a call is worth, and [M, LEVELS] which share of its workflow's cost it stands for."""

    worth: Floats
    share: Floats


@dataclass(frozen=True, eq=False)
class Raised:
    """The best bound of an ascent in price units, the multipliers that prove it, and the steps it took."""

    value: float
    multipliers: Multipliers
    steps: int


def first_multipliers(pool: Pool) -> Multipliers:
    """What the incumbent says: a call is worth its own price and what the ones behind it pay for waiting.

    Calls that end their workflow stand for most of it.
    """
    problem, incumbent = pool.problem, pool.incumbent
    m = np.arange(pool.calls.size)
    prefill = incumbent.prefill[pool.calls]
    ticks = problem.prefill_ticks[pool.calls, prefill]
    end = incumbent.prefill_start[pool.calls] + ticks
    kind = pool.kind[prefill]
    finish = np.maximum(end + pool.after[kind, m], pool.earliest[kind, m]) + pool.tail
    last = np.zeros(pool.problem.num_workflows, dtype=np.int64)
    np.maximum.at(last, pool.flow, finish)
    weight = np.exp((finish - last[pool.flow]) / max(1.0, float(np.median(ticks))))
    total = np.bincount(pool.flow, weights=weight)
    share = rounded_shares(np.repeat((weight / total[pool.flow])[:, None], LEVELS, axis=1))
    prices = np.full((m.size, pool.ticks.shape[0], pool.last_step + 1), FORBIDDEN)
    pool.prices(share, pool.plain_menu, prices)
    at = np.minimum(end // pool.step, pool.last_step)
    own = np.minimum(prices[m, kind, at], _MOST)
    sooner = np.maximum(0, at[None, :] - ticks[:, None] // pool.step)  # [who is taken out, who moves up]
    saved = own[None, :] - np.minimum(prices[m[None, :], kind[None, :], sooner], own[None, :])
    behind = (prefill[:, None] == prefill[None, :]) & (end[:, None] < end[None, :])
    return Multipliers(np.minimum(own + np.where(behind, saved, 0.0).sum(axis=1), _MOST), share)


def ascend(
    pool: Pool,
    start: Multipliers,
    most_steps: int,
    *,
    rents: Rents | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Raised:
    """Subgradient steps with memory (Camerini, Fratta, Maffioli 1975) and Polyak's length towards the incumbent.

    Ends after `most_steps`, when it `is_over`, or when the bound meets the incumbent.
    """
    return Ascent(pool, rents).run(start, most_steps, is_over)


def moved(start: Multipliers, pool: Pool, before: Rents | None, after: Rents | None) -> Multipliers:
    """The multipliers with what other rents add to the prices of the incumbent's prefills."""
    menus = [pool.plain_menu if rents is None else rents.menu for rents in (before, after)]
    m = np.arange(pool.calls.size)
    prefill = pool.incumbent.prefill[pool.calls]
    end = pool.incumbent.prefill_start[pool.calls] + pool.problem.prefill_ticks[pool.calls, prefill]
    at = m, pool.kind[prefill], np.minimum(end // pool.step, pool.last_step)
    prices = np.full((m.size, pool.ticks.shape[0], pool.last_step + 1), FORBIDDEN)
    pool.prices(start.share, menus[0], prices)
    price = prices[at]
    pool.prices(start.share, menus[1], prices)
    shift = prices[at] - price
    return Multipliers(start.worth + np.where(np.abs(shift) < _MOST, shift, 0.0), start.share)


class Ascent:
    """Prices and tables of one pool, kept from step to step."""

    def __init__(self, pool: Pool, rents: Rents | None = None) -> None:
        self.pool = pool
        self.rents = rents
        self.menu = pool.plain_menu if rents is None else rents.menu
        self.taken = 0.0 if rents is None else rents.taken
        kinds, size = pool.ticks.shape[0], pool.last_step + 1
        self.prices = np.full((pool.calls.size, kinds, size), FORBIDDEN)
        self.rows = np.empty((kinds, 3, size + 1))
        shortest = int(pool.ticks[pool.ticks > 0].min(initial=size))
        self.seen = np.zeros((3, (size // max(1, shortest) + 2) * pool.opens.size), dtype=np.int64)
        at = np.maximum(pool.opens[pool.first[:-1]][:, None], pool.release)
        self.tail_step = np.where(pool.ticks == 0, np.minimum(at, pool.last_step), pool.last_step)
        self.sharing = Sharing(pool)
        self.filled = False

    def run(self, start: Multipliers, most_steps: int, is_over: Callable[[], bool]) -> Raised:
        pool = self.pool
        target = (pool.known - pool.base) * pool.scale
        worth, part = start.worth, self.sharing.parts(start.share)
        best, kept, steps = 0.0, (np.zeros_like(worth), self.sharing.shares(part)), 0
        length, failed = 1.0, 0
        up, across = np.zeros_like(worth), np.zeros_like(part)
        while steps < most_steps and not is_over():
            steps += 1
            share = self.sharing.shares(part)
            value, worth, slope, tilt = self.evaluate(worth, share)
            if value > best:
                best, kept, failed = value, (worth, share), 0
                if pool.cost(best) >= pool.known:
                    break
            else:
                failed += 1
                if failed == _PATIENCE:
                    failed, length = 0, length * _SHRINK
            up, across = slope + _MEMORY * up, tilt + _MEMORY * across
            norm = float((up * up).sum() + (across * across).sum())
            if norm == 0.0:
                break
            ahead = length * max(target - value, 1.0) / norm
            worth, part = np.clip(worth + ahead * up, -_MOST, _MOST), part + ahead * across
        return Raised(best, Multipliers(*kept), steps)

    def evaluate(self, worth: Floats, share: Floats) -> tuple[float, Floats, Floats, Floats]:
        """Value, the multipliers it is for, and the slopes of the value in `worth` and in shared costs."""
        pool = self.pool
        if self.sharing.calls.size or not self.filled:
            pool.prices(share, self.menu, self.prices, only_shared=self.filled)
            self.filled = True
        # What a queue cannot say - ends after the last step, calls shorter than a step - must not be worth more.
        m, k = np.arange(worth.size)[:, None], np.arange(pool.ticks.shape[0])[None, :]
        outside = np.where(pool.ticks.T >= 0, self.prices[m, k, self.tail_step.T], FORBIDDEN).min(axis=1)
        worth = np.floor(np.minimum(worth, outside))
        paid, seen = _cheapest_queues(
            pool.ticks, pool.release, pool.opens, pool.first, self.prices, worth, self.rows, self.seen
        )
        queues = self.seen[:, :seen]
        slope: Floats = (1 - np.bincount(queues[0], minlength=worth.size)).astype(np.float64)
        value = paid + float(worth.sum()) - self.taken if paid > _LEAST_VALUE else 0.0
        return value, worth, slope, self.sharing.slopes(queues)

    def finishes(self, share: Floats) -> tuple[Floats, Ints]:
        """[M, F] price of every finish of a call, rents apart, and [M] the first of them; for steps of one tick."""
        pool = self.pool
        first = np.where(pool.ticks >= 0, pool.earliest, NEVER).min(axis=0)
        longest = np.where(pool.by_decode < NEVER, pool.by_decode, 0).max(axis=(0, 2))
        soonest = np.where(pool.ticks >= 0, pool.earliest, 0).max(axis=0)
        last = np.minimum(pool.latest, np.maximum(pool.last_step + longest, soonest) + self.menu.most)
        length = np.maximum(0, last - first + 1)
        rows = np.full((length.size, length.max(initial=1)), FORBIDDEN)
        fill_finishes(
            rows,
            first,
            length,
            share,
            pool.level,
            pool.flow,
            self.menu.relief,
            pool.tail,
            pool.alone,
            pool.own,
            pool.bends,
        )
        return rows, first


@kernel
def _cheapest_queues(
    ticks: Ints, release: Ints, opens: Ints, first: Ints, prices: Floats, worth: Floats, rows: Floats, seen: Ints
) -> tuple[float, int]:
    """Sum over the machines of their cheapest queues, and how many calls in them `seen` [3: call, kind, end] lists.

    From the last step back, for one kind of machine at a time: row 0 of `rows` [K, 3, T + 2] is the cheapest queue from
    step t on, row 2 its first call or -1, row 1 the cheapest that starts with another call. Steps go in blocks as long
    as the shortest prefill: within one no step needs another, so the inner loop runs over neighbours in memory.
    """
    num_kinds, num_calls = ticks.shape
    size = prices.shape[2]
    last = np.zeros(num_calls, np.int64)
    total, found = 0.0, 0
    for k in range(num_kinds):
        row = rows[k]
        low, high, shortest, may_wait = opens[first[k]], opens[first[k]], size, False
        for m in range(num_calls):
            last[m] = -1  # last end at which the call costs less than it is worth
            begin = max(low, release[m]) + ticks[k, m]
            if ticks[k, m] > 0 and begin < size and prices[m, k, begin] < worth[m]:
                left, right = begin, size - 1
                while left < right:
                    middle = (left + right + 1) >> 1
                    if prices[m, k, middle] < worth[m]:
                        left = middle
                    else:
                        right = middle - 1
                last[m] = left
                high, shortest = max(high, left), min(shortest, ticks[k, m])
                may_wait |= release[m] > low
        row[0], row[1], row[2] = 0.0, FORBIDDEN, -1.0
        if high == low:
            continue
        stop = high + 1
        while stop > low:
            begin = max(low, stop - shortest)
            for m in range(num_calls):
                mine = ticks[k, m]
                for t in range(max(begin, release[m]), min(stop, last[m] - mine + 1)):
                    behind = row[1, t + mine] if row[2, t + mine] == m else row[0, t + mine]
                    price = behind + prices[m, k, t + mine] - worth[m]
                    if price < row[0, t]:
                        row[1, t], row[0, t], row[2, t] = row[0, t], price, m
                    elif price < row[1, t]:
                        row[1, t] = price
            if may_wait:
                for t in range(min(stop, high) - 1, begin - 1, -1):
                    other = row[1, t + 1] if row[2, t + 1] == row[2, t] else row[0, t + 1]
                    if row[0, t + 1] < row[0, t]:
                        mine = row[1, t] if row[2, t + 1] == row[2, t] else row[0, t]
                        row[1, t] = min(row[1, t + 1], mine)
                        row[0, t], row[2, t] = row[0, t + 1], row[2, t + 1]
                    else:
                        row[1, t] = min(row[1, t], other)
            stop = begin
        for i in range(first[k], first[k + 1]):
            t, before = opens[i], -1
            total += row[0, t] if t <= high else 0.0
            while t <= high:
                wanted = row[1, t] if row[2, t] == before else row[0, t]
                if before < 0:
                    wanted = row[0, t]
                if wanted >= 0.0:
                    break
                chosen = -1
                for m in range(num_calls):
                    end = t + ticks[k, m]
                    if m != before and ticks[k, m] > 0 and t >= release[m] and end <= last[m]:
                        behind = row[1, end] if row[2, end] == m else row[0, end]
                        if behind + prices[m, k, end] - worth[m] == wanted:
                            chosen = m
                            break
                if chosen < 0:
                    t += 1  # waits for a call to be released
                    continue
                t += ticks[k, chosen]
                seen[0, found], seen[1, found], seen[2, found] = chosen, k, t
                found, before = found + 1, chosen
    return total, found
