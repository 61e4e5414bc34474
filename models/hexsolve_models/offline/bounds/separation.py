"""Windows of time in which a pool is asked for more than it has. Knows demands; knows no linear programme."""

from dataclasses import dataclass

import numpy as np

from hexsolve_models.objective import Ints
from hexsolve_models.offline.bounds.pools import Demand, Floats

_GRID = 256  # candidate ticks for each end of a window
_NEIGHBOURS = 24  # and so many more on either side of those in focus
_PER_ROUND = 6
_APART = 12  # candidates between the windows of one round
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Span:
    """A window [first, last) of one pool, and the prices of the pool's kinds."""

    first: int
    last: int
    prices: Floats


def overloaded(asked: Demand, weight: Floats, prices: Floats, focus: list[Span]) -> list[Span]:
    """The most overloaded windows if the calls counted with `weight` [N], the worst first; at most a handful.

    Counts only calls whose whole windows lie inside; ends are taken from a grid of calls' starts and ends, all of them
    where there are few, so that what is found is overloaded, but not everything is found.
    """
    pool = asked.pool
    some = asked.allowed.any(axis=1) & (weight > 0)
    starts = np.where(asked.allowed, pool.start, np.iinfo(np.int64).max).min(axis=1)[some]
    ends = np.where(asked.allowed, asked.end, np.iinfo(np.int64).min).max(axis=1)[some]
    amount = (asked.whole(prices) * weight)[some]
    if not amount.any():
        return []
    first = _candidates(starts, [span.first for span in focus], "lower")
    last = _candidates(ends, [span.last for span in focus], "higher")
    row = np.searchsorted(first, starts, side="right") - 1
    column = np.searchsorted(last, ends)
    inside = (row >= 0) & (column < last.size)
    table = np.zeros((first.size, last.size))
    np.add.at(table, (row[inside], column[inside]), amount[inside])
    needed = np.cumsum(np.cumsum(table[::-1], axis=0)[::-1], axis=1)
    room = float((prices * pool.capacity).sum()) * (last[None, :] - first[:, None])
    load = np.where(room > 0, needed / np.maximum(room, 1e-300), 0.0)
    found = []
    for _ in range(_PER_ROUND):
        a, b = np.unravel_index(int(np.argmax(load)), load.shape)
        if load[a, b] <= 1.0 + _TOLERANCE:
            break
        found.append(Span(int(first[a]), int(last[b]), prices))
        load[max(0, a - _APART) : a + _APART + 1, max(0, b - _APART) : b + _APART + 1] = 0.0
    return found


def _candidates(ticks: Ints, focus: list[int], rounding: str) -> Ints:
    """Sorted candidates out of `ticks`: quantiles, and all near those in focus."""
    distinct = np.unique(ticks)
    if distinct.size <= _GRID:
        return distinct
    at = np.linspace(0, distinct.size - 1, _GRID)
    chosen = [np.floor(at) if rounding == "lower" else np.ceil(at)]
    for tick in focus:
        place = int(np.searchsorted(distinct, tick))
        chosen.append(np.arange(place - _NEIGHBOURS, place + _NEIGHBOURS + 1).astype(np.float64))
    places = np.unique(np.concatenate(chosen)).astype(np.int64)
    return distinct[places[(places >= 0) & (places < distinct.size)]]
