"""What the end of a prefill costs, tick by tick. Knows workflows' costs as bends and what can follow a prefill; knows
no queue and no incumbent. Symbols and proofs: models/README.md §11.1.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve_models.alone import NEVER, SAFE
from hexsolve_models.flat import read_only
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem

Floats = npt.NDArray[np.float64]

FORBIDDEN = 2.0**52  # price of an end outside a call's window: above every sum of multipliers
LEVELS = 6  # parts of a workflow's cost that can be shared differently among its calls
FULL = 2.0**28  # the incumbent's cost above the standalone bound, as prices count it
SHARE = 2.0**20  # shares are multiples of its inverse: products with prices are then exact


class OutOfRangeError(Exception):
    """Numbers so large that prices would not be exact."""


class Bends(NamedTuple):
    """f_w - f_w(earliest F_w) of each workflow, straight from each tick to the next, the last one for ever.

    tick : [W, Q] from the workflow's earliest finish on, `NEVER` in unused places.
    price, slope : [W, Q] in price units.
    """

    tick: Ints
    price: Floats
    slope: Floats


class Menu(NamedTuple):
    """How a call can go on after its prefill, as far as its price goes (models/README.md §11.4).

    after, price : [K, M, J] fewest ticks from prefill end to finish, and what is to be paid for that.
    number : [K, M] options of each call behind each kind, 1..J, by `after`; dearer ones take longer for less.
    relief : [M] price per tick that a call gets for every tick it is held up beyond that.
    most : [M] ticks it can be held up.
    """

    after: Ints
    price: Floats
    number: Ints
    relief: Floats
    most: Ints


def rounded_shares(share: Floats) -> Floats:
    """Rounded down to what multiplies exactly."""
    shares: Floats = np.floor(share * SHARE) / SHARE
    return shares


def bends(problem: Problem, tail: Ints, first: Ints, last: Ints, scale: float) -> Bends:
    """Where each f_w bends between first and last finishes [N] of its calls, plus `tail` [N] ticks.

    Raises
    ------
    OutOfRangeError
        If costs cannot be added up exactly.
    """
    objective = problem.objective
    start, end = np.zeros((2, problem.num_workflows), dtype=np.int64)
    np.maximum.at(start, problem.workflow, first + tail)
    np.maximum.at(end, problem.workflow, last + tail)
    largest = float(objective.slope.max(initial=0)) * float(end.max(initial=0))
    largest += float(np.abs(objective.intercept).max(initial=0)) + float(objective.late_weight.max(initial=0))
    if largest >= SAFE:
        raise OutOfRangeError(f"costs can reach {largest:.3g}: expected below 2^62")
    shape = problem.num_workflows, objective.slope.shape[1] + 2
    tick = np.full(shape, NEVER, dtype=np.int64)
    price, slope = np.zeros((2, *shape), dtype=np.int64)
    due, weight = read_only(objective.due_tick), read_only(objective.late_weight)
    _walk(read_only(objective.slope), read_only(objective.intercept), due, weight, start, end, tick, price, slope)
    return Bends(tick, np.floor(np.minimum(price * scale, 4 * FULL)), np.floor(np.minimum(slope * scale, 4 * FULL)))


@kernel
def _walk(
    slope: Ints, intercept: Ints, due: Ints, late: Ints, start: Ints, end: Ints, tick: Ints, price: Ints, rate: Ints
) -> None:
    """Walk the upper envelope of every workflow's pieces, with the step at the due tick, and fill the last three."""
    for w in range(start.size):
        now, floor, bends = start[w], 0, 0
        while now <= end[w]:
            top, steep = slope[w, 0] * now + intercept[w, 0], slope[w, 0]
            for k in range(1, slope.shape[1]):
                value = slope[w, k] * now + intercept[w, k]
                if value > top or (value == top and slope[w, k] > steep):
                    top, steep = value, slope[w, k]
            is_late = now > due[w]
            cost = top + late[w] if is_late else top
            if bends == 0:
                floor = cost
            tick[w, bends], price[w, bends], rate[w, bends] = now, cost - floor, steep
            bends += 1
            following = end[w] + 1 if is_late else min(end[w], due[w]) + 1
            for k in range(slope.shape[1]):
                if slope[w, k] > steep:
                    # The first tick at which piece k is strictly above the current one.
                    gap = top - slope[w, k] * now - intercept[w, k]
                    following = min(following, now + gap // (slope[w, k] - steep) + 1)
            now = following


@kernel
def fill_prices(
    prices: Floats, share: Floats, level: Floats, is_shared: npt.NDArray[np.bool_], only_shared: bool, flow: Ints,
    step: int, grain: int, ticks: Ints, menu: Menu, earliest: Ints, latest: Ints, tail: Ints, alone: Ints, own: Floats,
    bends: Bends,
) -> None:  # fmt: skip
    """Fill [M, K, T + 1], see `Pool.prices`."""
    after, price, number, relief, most = menu
    curve_tick, curve_price, curve_slope = bends
    size = prices.shape[2]
    last = size - 1
    row = np.empty(1)
    for m in range(flow.size):
        if only_shared and not is_shared[m]:
            continue
        w = flow[m]
        # The price of every finish, in steps of `grain` ticks from the first one on.
        start, end = int(FORBIDDEN), 0
        for k in range(ticks.shape[0]):
            if ticks[k, m] >= 0 and number[k, m] > 0:
                start = min(start, int(earliest[k, m]))
                end = max(end, int(earliest[k, m]), int(step * last + after[k, m, number[k, m] - 1]))
        end = min(int(latest[m]), max(end, start) + int(most[m]))
        length = (end - start) // grain + 1 if end >= start else 0
        if length > row.size:
            row = np.empty(2 * length)
        _fill_row(
            row, length, start, grain, share[m], level, tail[m], alone[m], own[m], relief[m], curve_tick[w],
            curve_price[w], curve_slope[w],
        )  # fmt: skip
        lost = relief[m] * (grain - 1)
        for k in range(ticks.shape[0]):
            if ticks[k, m] < 0:
                continue
            for t in range(size):
                prices[m, k, t] = FORBIDDEN
            for j in range(number[k, m]):
                behind, extra = after[k, m, j], price[k, m, j] - lost
                if earliest[k, m] > latest[m]:
                    continue
                # Ends after which the call is done no sooner than `earliest`, and in its window.
                first = min(size, max(0, -((behind - earliest[k, m]) // step)))
                stop = min(size, max(0, (latest[m] - behind) // step + 1))
                waits = np.floor(row[(earliest[k, m] - start) // grain] + extra)
                for t in range(min(first, stop)):
                    prices[m, k, t] = min(prices[m, k, t], waits)
                if grain == 1 and step == 1:
                    shift = behind - start
                    for t in range(first, stop):
                        prices[m, k, t] = min(prices[m, k, t], np.floor(row[t + shift] + extra))
                else:
                    for t in range(first, stop):
                        prices[m, k, t] = min(
                            prices[m, k, t], np.floor(row[(step * t + behind - start) // grain] + extra)
                        )


@kernel
def fill_finishes(
    rows: Floats, first: Ints, length: Ints, share: Floats, level: Floats, flow: Ints, relief: Floats, tail: Ints,
    alone: Ints, own: Floats, bends: Bends,
) -> None:  # fmt: skip
    """Fill [M, F]: the price of every finish of a call, tick by tick from `first` on, apart from what the menu adds."""
    curve_tick, curve_price, curve_slope = bends
    for m in range(flow.size):
        w = flow[m]
        _fill_row(
            rows[m], length[m], first[m], 1, share[m], level, tail[m], alone[m], own[m], relief[m], curve_tick[w],
            curve_price[w], curve_slope[w],
        )  # fmt: skip


@kernel
def _fill_row(
    row: Floats, length: int, start: int, grain: int, share: Floats, level: Floats, tail: int, alone: int, own: float,
    relief: float, tick: Ints, price: Floats, slope: Floats,
) -> None:  # fmt: skip
    """The price of finishes `start`, `start + grain`, ... of one call.

    Straight runs between two bends or levels, so that the inner loop is a multiply and an add.
    """
    num_bends, num_levels = tick.size, share.size
    i, q, part, below = 0, 0, 0, 0.0  # `below`: shares of all levels under `part`
    while i < length:
        now = start + grain * i + tail
        while q + 1 < num_bends and tick[q + 1] <= now:
            q += 1
        origin, value, rate = tick[q], price[q], slope[q]
        stop = tick[q + 1] if q + 1 < num_bends else now + grain * length
        if now < origin:
            stop, rate = origin, 0.0
        here = value + rate * (now - origin)
        while part + 1 < num_levels and here >= level[part + 1]:
            below += share[part] * (level[part + 1] - level[part])
            part += 1
        if rate > 0.0 and part + 1 < num_levels:
            stop = min(stop, origin + np.int64(np.ceil((level[part + 1] - value) / rate)))
        stop = min(length, max(i + 1, (stop - 1 - start - tail) // grain + 1))
        offset, factor = below + share[part] * (value - level[part]), share[part] * rate
        gone, late = start + tail - origin, start - alone
        for j in range(i, stop):
            row[j] = np.floor(offset + factor * (grain * j + gone)) + own * (grain * j + late)
        i = stop
    if relief > 0.0:
        for j in range(length - 2, -1, -1):
            row[j] = min(row[j], row[j + 1] - relief * grain)
