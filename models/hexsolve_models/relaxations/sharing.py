"""Which part of its workflow's cost a call stands for. Knows `Pool`; knows no queue. Proof: models/README.md §11.1.

A workflow's calls share each level of its cost. Parts are in price units: those of one level add up to its width.
"""

import numpy as np

from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.relaxations.pool import Pool
from hexsolve_models.relaxations.prices import LEVELS, SHARE, Bends, Floats


class Sharing:
    """The calls of workflows that have several, side by side by workflow: rows of parts [S, LEVELS]."""

    def __init__(self, pool: Pool) -> None:
        shared = np.flatnonzero(pool.is_shared)
        self.pool = pool
        self.calls = shared[np.argsort(pool.flow[shared], kind="stable")]
        flow = pool.flow[self.calls]
        self.begins = np.append(np.flatnonzero(np.diff(flow, prepend=-1)), flow.size)
        self.width = np.minimum(np.diff(pool.level), pool.level[-2] - pool.level[-3])

    def parts(self, share: Floats) -> Floats:
        """[S, LEVELS] of shares [M, LEVELS]."""
        part: Floats = share[self.calls] * self.width
        return part

    def shares(self, part: Floats) -> Floats:
        """[M, LEVELS]: the nearest parts that add up, as shares, rounded down so that no workflow counts twice."""
        share = np.ones((self.pool.flow.size, LEVELS))
        if self.calls.size:
            _add_up(part, self.begins, self.width, self.calls, share)
        return share

    def slopes(self, seen: Ints) -> Floats:
        """[S, LEVELS] how the cost of the queues, `seen` [3: call, kind, end step], changes with the parts."""
        slope = np.zeros((self.calls.size, LEVELS))
        if self.calls.size:
            pool = self.pool
            row = np.full(pool.flow.size, -1)
            row[self.calls] = np.arange(self.calls.size)
            _fill_slopes(
                np.ascontiguousarray(seen), row, pool.step, pool.after, pool.earliest, pool.tail, pool.flow, pool.bends,
                pool.level, self.width, self.begins, slope,
            )  # fmt: skip
        return slope


@kernel
def _add_up(part: Floats, begins: Ints, width: Floats, calls: Ints, share: Floats) -> None:
    """Make parts of a workflow >= 0 and add up to the widths, in place, and fill the rows of `calls` in `share`."""
    for g in range(begins.size - 1):
        a, b = begins[g], begins[g + 1]
        for k in range(width.size):
            for turn in range(4):
                total = 0.0
                for i in range(a, b):
                    part[i, k] = max(0.0, part[i, k])
                    total += part[i, k]
                for i in range(a, b):
                    if turn < 3:
                        part[i, k] += (width[k] - total) / (b - a)
                    else:
                        part[i, k] *= width[k] / max(total, 1e-9)
                        share[calls[i], k] = np.floor(part[i, k] / width[k] * (1.0 - 1e-12) * SHARE) / SHARE


@kernel
def _fill_slopes(
    seen: Ints, row: Ints, step: int, after: Ints, earliest: Ints, tail: Ints, flow: Ints, bends: Bends, level: Floats,
    width: Floats, begins: Ints, slope: Floats,
) -> None:  # fmt: skip
    """Which share of each level a workflow's cost fills at the ends of its calls, less the mean over its calls."""
    tick, price, rate = bends
    for j in range(seen.shape[1]):
        m, k = seen[0, j], seen[1, j]
        if row[m] >= 0:
            w, q = flow[m], 0
            ready = max(step * seen[2, j] + after[k, m], earliest[k, m]) + tail[m]
            while q + 1 < tick.shape[1] and tick[w, q + 1] <= ready:
                q += 1
            cost = price[w, q] + rate[w, q] * max(0, ready - tick[w, q])
            for i in range(width.size):
                slope[row[m], i] += min(1.0, max(0.0, (cost - level[i]) / width[i]))
    for g in range(begins.size - 1):
        a, b = begins[g], begins[g + 1]
        for i in range(width.size):
            mean = 0.0
            for r in range(a, b):
                mean += slope[r, i]
            for r in range(a, b):
                slope[r, i] -= mean / (b - a)
