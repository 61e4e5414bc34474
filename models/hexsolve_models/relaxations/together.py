"""Every way to put listed queues together, with a decode replica for every call. Knows arrays of prices and ticks;
knows no problem and no multipliers. Proof: models/README.md §11.5.
"""

from typing import NamedTuple

import numpy as np

from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.relaxations.prices import FORBIDDEN, Bends, Floats


class Listed(NamedTuple):
    """Nodes of the tree of queues; the queue of a node is the way back to its root, where `call` is -1."""

    parent: Ints
    call: Ints
    end: Ints  # tick at which the queue is done
    calls: Ints  # the set, one bit each
    machine: Ints
    price: Floats  # prices minus worths, above the machine's cheapest queue; what may be appended not counted


class Calls(NamedTuple):
    """What a set of queues costs is made of: M free calls, K kinds of machine, D decode replicas, L locked calls."""

    flow: Ints  # [M] workflow
    kind: Ints  # [P] of each machine
    after: Ints  # [K, M, D] ticks from prefill end to finish
    earliest: Ints  # [K, M]
    latest: Ints  # [M]
    tail: Ints  # [M]
    alone: Ints  # [M]
    own: Floats  # [M]
    crowding: Ints  # [M, D], -1 where it may not decode
    bound_here: Ints  # [D] locked calls
    uncrowded: Ints  # [D]
    twin: Ints  # [D] an earlier replica that differs in nothing, or -1
    locked: Ints  # [4, L] replica, first finish with tail, crowding ticks and workflow
    locked_own: Floats  # [L]
    rent: Floats  # [M, D]
    finish: Floats  # [M, F] price of every finish, rents apart
    begin: Ints  # [M] the first of them
    bends: Bends


class Best(NamedTuple):
    """The cheapest so far."""

    price: Floats  # [1]
    queue: Ints  # [P] node of each machine, -1 if nothing better than the incumbent was found
    decode: Ints  # [M]


@kernel
def put_together(
    value: float, unit: float, most_work: int, queue: Ints, nodes: Listed, prices: Floats, calls: Calls, best: Best
) -> int:  # fmt: skip
    """One queue per machine, every call in one of them, a decode replica for each, at the least relaxed cost.

    `queue` lists nodes by machine and price; `value` is what the cheapest queues cost with all worths, `unit` the least
    difference between costs; `prices` [M, K, T + 1]. Fills `best`; returns the work done, or -1 if it was too much.
    """
    num_machines, num_calls = calls.kind.size, calls.flow.size
    taken = np.full(num_machines, -1)
    room = best.price[0] - unit - value
    full = (np.int64(1) << num_calls) - 1
    # Candidates at each depth, by machine and price: left[depth, begin[depth, i]:begin[depth, i + 1]].
    left = np.empty((num_machines + 1, queue.size), np.int64)
    begin = np.zeros((num_machines + 1, num_machines + 1), np.int64)
    branch, place = np.zeros(num_machines + 1, np.int64), np.zeros(num_machines + 1, np.int64)
    spent, used = np.zeros(num_machines + 1), np.zeros(num_machines + 1, np.int64)
    end, at_kind = np.zeros(num_calls, np.int64), np.zeros(num_calls, np.int64)
    left[0] = queue
    for node in queue:
        begin[0, nodes.machine[node] + 1] += 1
    for i in range(num_machines):
        begin[0, i + 1] += begin[0, i]
    depth, work, is_new = 0, 0, True
    while depth >= 0:
        if is_new:
            # Drop what is too dear beside the cheapest of the others, and branch where the fewest are left.
            is_new = False
            rest, is_dead, reach = 0.0, False, used[depth]
            for i in range(num_machines):
                if taken[i] < 0:
                    if begin[depth, i] == begin[depth, i + 1]:
                        is_dead = True
                    else:
                        rest += nodes.price[left[depth, begin[depth, i]]]
            fewest, at, kept = queue.size + 1, -1, 0
            if not is_dead and spent[depth] + rest <= room:
                for i in range(num_machines):
                    a, b = begin[depth, i], begin[depth, i + 1]
                    begin[depth, i] = kept
                    if taken[i] >= 0:
                        continue
                    most = room - spent[depth] - rest + nodes.price[left[depth, a]]
                    first = kept
                    for j in range(a, b):
                        node = left[depth, j]
                        if nodes.price[node] > most:
                            break
                        left[depth, kept] = node
                        reach |= nodes.calls[node]
                        kept += 1
                    if kept - first < fewest:
                        fewest, at = kept - first, i
                begin[depth, num_machines] = kept
                work += kept
            branch[depth], place[depth] = at if reach == full else -1, 0
            if work > most_work:
                return -1
        at = branch[depth]
        if at >= 0:
            taken[at] = -1
        j = begin[depth, at] + place[depth] if at >= 0 else 0
        if at < 0 or j >= begin[depth, at + 1]:
            depth -= 1
            continue
        place[depth] += 1
        node = left[depth, j]
        taken[at] = node
        spent[depth + 1] = spent[depth] + nodes.price[node]
        used[depth + 1] = used[depth] | nodes.calls[node]
        if spent[depth + 1] > room:
            continue
        if depth + 1 < num_machines:
            kept = 0
            for i in range(num_machines):
                a, b = begin[depth, i], begin[depth, i + 1]
                begin[depth + 1, i] = kept
                if taken[i] < 0:
                    for q in range(a, b):
                        other = left[depth, q]
                        if nodes.calls[other] & used[depth + 1] == 0:
                            left[depth + 1, kept] = other
                            kept += 1
                    work += b - a
            begin[depth + 1, num_machines] = kept
            depth, is_new = depth + 1, True
        elif used[depth + 1] == full:
            for i in range(num_machines):
                node = taken[i]
                while nodes.call[node] >= 0:
                    end[nodes.call[node]], at_kind[nodes.call[node]] = nodes.end[node], calls.kind[i]
                    node = nodes.parent[node]
            before = best.price[0]
            work += _choose_decodes(spent[depth + 1] + value, unit, most_work - work, end, at_kind, prices, calls, best)
            if work > most_work:
                return -1
            if best.price[0] < before:
                best.queue[:] = taken
                room = best.price[0] - unit - value
    return work


@kernel
def _choose_decodes(
    spent: float, unit: float, most_work: int, end: Ints, at_kind: Ints, prices: Floats, calls: Calls, best: Best
) -> int:  # fmt: skip
    """Decode replicas at the least relaxed cost when the prefills end at `end` [M]; returns the work done.

    Depth first, calls with most to lose first. `spent` is the price with the best replica for each.
    """
    num_calls, num_decode = calls.crowding.shape
    tick, price, slope = calls.bends
    slack, option = np.full((num_calls, num_decode), FORBIDDEN), np.zeros((num_calls, num_decode), np.int64)
    order, spread, soonest = np.zeros(num_calls, np.int64), np.zeros(num_calls), np.zeros(num_calls, np.int64)
    for m in range(num_calls):
        k, t, found = at_kind[m], min(end[m], prices.shape[2] - 1), 0
        soonest[m] = np.int64(FORBIDDEN)
        for d in range(num_decode):
            if calls.crowding[m, d] < 0:
                continue
            done, extra = max(t + calls.after[k, m, d], calls.earliest[k, m]), FORBIDDEN
            if done <= calls.latest[m]:
                price_here = np.floor(calls.finish[m, done - calls.begin[m]] + calls.rent[m, d])
                extra = price_here - prices[m, k, t]
            soonest[m] = min(soonest[m], max(end[m] + calls.after[k, m, d], calls.earliest[k, m]))
            j = found
            while j > 0 and slack[m, j - 1] > extra:
                slack[m, j], option[m, j] = slack[m, j - 1], option[m, j - 1]
                j -= 1
            slack[m, j], option[m, j] = extra, d
            found += 1
        spread[m] = slack[m, 1] if num_decode > 1 else FORBIDDEN
        j = m
        while j > 0 and spread[order[j - 1]] < spread[m]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = m
    tried, where = np.zeros(num_calls + 1, np.int64), np.full(num_calls, -1)
    lost, count = np.full(num_calls + 1, spent), calls.bound_here.copy()
    last = np.zeros(tick.shape[0], np.int64)
    level, work = 0, num_calls * num_decode
    while level >= 0 and work <= most_work:
        m = order[level]
        if where[m] >= 0:
            count[where[m]] -= 1
            where[m] = -1
        j = tried[level]
        if j == num_decode or lost[level] + slack[m, j] > best.price[0] - unit:
            level -= 1
            continue
        tried[level] = j + 1
        twin = calls.twin[option[m, j]]
        if twin >= 0 and count[twin] == 0 and count[option[m, j]] == 0:
            continue  # the same as with the twin
        where[m] = option[m, j]
        count[where[m]] += 1
        lost[level + 1] = lost[level] + slack[m, j]
        # What it costs at least: those placed beside the others placed, the rest as if alone.
        total, is_late = 0.0, False
        last[:] = -1
        for i in range(calls.locked.shape[1]):
            d = calls.locked[0, i]
            least = max(0, calls.bound_here[d] - calls.uncrowded[d])
            more = calls.locked[2, i] * (max(0, count[d] - calls.uncrowded[d]) - least)
            total += calls.locked_own[i] * more
            last[calls.locked[3, i]] = max(last[calls.locked[3, i]], calls.locked[1, i] + more)
        for c in range(num_calls):
            done, d = soonest[c], where[c]
            if d >= 0:
                least = max(0, calls.bound_here[d] + 1 - calls.uncrowded[d])
                more = calls.crowding[c, d] * (max(0, count[d] - calls.uncrowded[d]) - least)
                done = max(end[c] + calls.after[at_kind[c], c, d], calls.earliest[at_kind[c], c]) + more
            is_late |= done > calls.latest[c]
            total += calls.own[c] * (done - calls.alone[c])
            last[calls.flow[c]] = max(last[calls.flow[c]], done + calls.tail[c])
        for w in range(last.size):
            if last[w] > tick[w, 0]:
                q = 0
                while q + 1 < tick.shape[1] and tick[w, q + 1] <= last[w]:
                    q += 1
                total += price[w, q] + slope[w, q] * (last[w] - tick[w, q])
        work += 8 * num_calls
        if is_late or total > best.price[0] - unit:
            continue
        if level + 1 < num_calls:
            level += 1
            tried[level] = 0
        else:
            best.price[0] = total
            best.decode[:] = where
    return int(work)
