"""What the end of a prefill costs, as a table. Knows cost curves, shares of them and menus; knows no problem, no queue.

All floats here are integers or multiples of a power of two, small enough to be added and multiplied exactly. Symbols
and proofs: models/README.md §9.1.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints

Floats = npt.NDArray[np.float64]

FORBIDDEN = 2.0**52  # price of an end outside a call's window: above every sum of multipliers
LEVELS = 6  # parts of a workflow's cost that can be shared differently among its calls
_SHARE = 2.0**20  # shares are multiples of its inverse: products with prices are then exact


class Curves(NamedTuple):
    """f_w - f_w(first possible F_w) in price units, straight from each bend to the next.

    tick, price, slope : [W, Q] where a piece begins, its price there, and price per tick; unused bends never come.
    """

    tick: Ints
    price: Floats
    slope: Floats


class Menu(NamedTuple):
    """How a call can go on after its prefill, as far as its price goes (models/README.md §9.4).

    after, price : [K, M, J] fewest ticks from prefill end to finish, and what is to be paid for that.
    number : [K, M] options of each call behind each kind, 0..J, by `after`.
    relief : [M] price per tick that a call gets for every tick it is held up beyond that.
    most : [M] ticks it can be held up.
    """

    after: Ints
    price: Floats
    number: Ints
    relief: Floats
    most: Ints


class Ends(NamedTuple):
    """What a prefill's end means for each of M calls behind each of K kinds of machine.

    flow : [M] workflow.
    ticks : [K, M] prefill steps; -1: not allowed.
    earliest : [K, M] first tick the call can finish at.
    latest : [M] tick by which it finishes in some optimum.
    tail : [M] ticks from its finish to F_w at least.
    alone, own : [M] first tick it can finish at, and price of every tick after that.
    """

    flow: Ints
    ticks: Ints
    earliest: Ints
    latest: Ints
    tail: Ints
    alone: Ints
    own: Floats


def rounded_shares(share: Floats) -> Floats:
    """Rounded down to what multiplies exactly."""
    shares: Floats = np.floor(share * _SHARE) / _SHARE
    return shares


@kernel
def bends(
    slope: Ints, intercept: Ints, due: Ints, late: Ints, start: Ints, end: Ints, tick: Ints, price: Ints, rate: Ints
) -> None:
    """Walk f_w from `start` to `end` along the largest pieces and over the step at the due tick; fill the last three."""
    for w in range(start.size):
        now, floor, count = start[w], 0, 0
        while now <= end[w]:
            top, steep = slope[w, 0] * now + intercept[w, 0], slope[w, 0]
            for k in range(1, slope.shape[1]):
                value = slope[w, k] * now + intercept[w, k]
                if value > top or (value == top and slope[w, k] > steep):
                    top, steep = value, slope[w, k]
            is_late = now > due[w]
            cost = top + late[w] if is_late else top
            if count == 0:
                floor = cost
            tick[w, count], price[w, count], rate[w, count] = now, cost - floor, steep
            count += 1
            following = end[w] + 1 if is_late else min(end[w], due[w]) + 1
            for k in range(slope.shape[1]):
                if slope[w, k] > steep:
                    # The first tick at which piece k is strictly above the current one.
                    gap = top - slope[w, k] * now - intercept[w, k]
                    following = min(following, now + gap // (slope[w, k] - steep) + 1)
            now = following


@kernel
def fill_prices(
    prices: Floats, step: int, grain: int, only_shared: bool, is_shared: npt.NDArray[np.bool_], share: Floats,
    level: Floats, curves: Curves, menu: Menu, ends: Ends,
) -> None:  # fmt: skip
    """Fill [M, K, T + 1]: the least price of call m ending its prefill at step t; `FORBIDDEN` outside its window.

    First a row of what every finish costs, in straight runs between two bends or levels, rounded down to `grain` ticks;
    then the cheapest way to reach one from each end.
    """
    num_bends, num_levels, size = curves.tick.shape[1], share.shape[1], prices.shape[2]
    row = np.empty(1)
    for m in range(ends.flow.size):
        if only_shared and not is_shared[m]:
            continue
        w, latest = ends.flow[m], ends.latest[m]
        start, end = np.int64(FORBIDDEN), np.int64(0)
        for k in range(ends.ticks.shape[0]):
            if ends.ticks[k, m] >= 0 and menu.number[k, m] > 0:
                start = min(start, ends.earliest[k, m])
                end = max(end, ends.earliest[k, m], step * (size - 1) + menu.after[k, m, menu.number[k, m] - 1])
        end = min(latest, end + menu.most[m])
        length = (end - start) // grain + 1 if end >= start else 0
        if length > row.size:
            row = np.empty(2 * length)
        i, q, part, below = 0, 0, 0, 0.0  # `below`: shares of all levels under `part`
        while i < length:
            now = start + grain * i + ends.tail[m]
            while q + 1 < num_bends and curves.tick[w, q + 1] <= now:
                q += 1
            origin, value, rate = curves.tick[w, q], curves.price[w, q], curves.slope[w, q]
            stop = curves.tick[w, q + 1] if q + 1 < num_bends else now + grain * length
            if now < origin:
                stop, rate = origin, 0.0
            here = value + rate * (now - origin)
            while part + 1 < num_levels and here >= level[part + 1]:
                below += share[m, part] * (level[part + 1] - level[part])
                part += 1
            if rate > 0.0 and part + 1 < num_levels:
                stop = min(stop, origin + np.int64(np.ceil((level[part + 1] - value) / rate)))
            stop = min(length, max(i + 1, (stop - 1 - start - ends.tail[m]) // grain + 1))
            offset, factor = below + share[m, part] * (value - level[part]), share[m, part] * rate
            gone, late = start + ends.tail[m] - origin, start - ends.alone[m]
            for j in range(i, stop):
                row[j] = np.floor(offset + factor * (grain * j + gone)) + ends.own[m] * (grain * j + late)
            i = stop
        if menu.relief[m] > 0.0:
            for j in range(length - 2, -1, -1):
                row[j] = min(row[j], row[j + 1] - menu.relief[m] * grain)
        lost = menu.relief[m] * (grain - 1)
        for k in range(ends.ticks.shape[0]):
            earliest = ends.earliest[k, m]
            prices[m, k, :] = FORBIDDEN
            if ends.ticks[k, m] < 0 or earliest > latest:
                continue
            for j in range(menu.number[k, m]):
                behind, extra = menu.after[k, m, j], menu.price[k, m, j] - lost
                # The call finishes at `earliest` after ends before `first`; after ends from `stop` on it is too late.
                first = min(size, max(0, -((behind - earliest) // step)))
                stop = min(size, max(0, (latest - behind) // step + 1))
                waits = np.floor(row[(earliest - start) // grain] + extra)
                for t in range(min(first, stop)):
                    prices[m, k, t] = min(prices[m, k, t], waits)
                if step == 1:
                    shift = behind - start
                    for t in range(first, stop):
                        prices[m, k, t] = min(prices[m, k, t], np.floor(row[t + shift] + extra))
                else:
                    for t in range(first, stop):
                        price = np.floor(row[(step * t + behind - start) // grain] + extra)
                        prices[m, k, t] = min(prices[m, k, t], price)
