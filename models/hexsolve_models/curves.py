"""Workflow costs as compiled loops read them: pieces in the order in which they are the largest, and the step.

Knows objectives; knows no call. A walk to later ticks touches each piece once; a maximum would touch all at every tick.
"""

from typing import NamedTuple

import numpy as np

from hexsolve_models.flat import read_only
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints, Objective


class Curves(NamedTuple):
    """f_w by pieces: piece k is the largest at ticks since[w, k]..since[w, k + 1] - 1, the first one from tick 0 on."""

    since: Ints  # [W, K]
    slope: Ints  # [W, K]
    intercept: Ints  # [W, K]
    num: Ints  # [W] pieces
    due: Ints  # [W]
    late: Ints  # [W]


def curves(objective: Objective) -> Curves:
    """The upper envelope at ticks >= 0. Costs below 2^62 at the ticks that are looked at are up to the reader."""
    since, slope, intercept = np.zeros((3, *objective.slope.shape), dtype=np.int64)
    count = np.zeros(objective.num_workflows, dtype=np.int64)
    _walk(read_only(objective.slope), read_only(objective.intercept), since, slope, intercept, count)
    return Curves(since, slope, intercept, count, read_only(objective.due_tick), read_only(objective.late_weight))


@kernel
def _walk(slope: Ints, intercept: Ints, since: Ints, steps: Ints, heights: Ints, count: Ints) -> None:
    """From the piece that is the largest at tick 0 on, always the next to rise above; of several the largest."""
    for w in range(slope.shape[0]):
        now, at = 0, 0
        for k in range(slope.shape[1]):
            if (intercept[w, k], slope[w, k]) > (intercept[w, now], slope[w, now]):
                now = k
        while True:
            n = count[w]
            since[w, n], steps[w, n], heights[w, n] = at, slope[w, now], intercept[w, now]
            count[w] = n + 1
            first, rising = 0, -1
            for k in range(slope.shape[1]):
                if slope[w, k] > slope[w, now]:
                    tick = (intercept[w, now] - intercept[w, k]) // (slope[w, k] - slope[w, now]) + 1
                    lead = (slope[w, k] - slope[w, rising]) * tick + intercept[w, k] - intercept[w, rising]
                    is_ahead = lead > 0 or (lead == 0 and slope[w, k] > slope[w, rising])
                    if rising < 0 or tick < first or (tick == first and is_ahead):
                        first, rising = tick, k
            if rising < 0:
                break
            now, at = rising, first
