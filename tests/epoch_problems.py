"""Small epoch problems for tests: a builder with defaults, seeded random problems, and a slow exact enumerator."""

from itertools import permutations, product
from typing import Any

import numpy as np

from hexsolve_models.decision import Decision
from hexsolve_models.objective import Objective
from hexsolve_models.problem import Problem
from hexsolve_models.referee import cost, violations


def make_problem(
    prefill: Any,
    decode: Any,
    *,
    kv: Any = None,
    capacity: Any = None,
    transfer: Any = None,
    rate: Any = None,
    moved: Any = None,
    release: Any = None,
    locked: Any = None,
    free_tick: Any = None,
    held: Any = (),
    workflow: Any = None,
    slope: Any = None,
    intercept: Any = None,
    tail: Any = None,
    weight: Any = None,
    aggregate: Any = "sum",
) -> Problem:
    """Each call its own workflow with cost = finish, room for all, no transfer time, unless said otherwise.

    `held` is a list of (decode replica, start, end, blocks).
    """
    prefill, decode = np.array(prefill), np.array(decode)
    n, p, d = len(decode), prefill.shape[1], decode.shape[1]
    workflow = np.arange(n) if workflow is None else np.array(workflow)
    num_workflows = int(workflow.max(initial=-1)) + 1
    slope = np.ones((num_workflows, 1), dtype=int) if slope is None else np.array(slope)
    held = np.array(held, dtype=int).reshape(-1, 4)

    def or_else(values: Any, default: Any) -> Any:
        return default if values is None else np.array(values)

    return Problem(
        prefill_ticks=prefill,
        locked_decode=or_else(locked, np.full(n, -1)),
        release_tick=or_else(release, np.zeros(n, dtype=int)),
        transfer_base_ticks=or_else(transfer, np.zeros((p, d), dtype=int)),
        transfer_rate_ticks=or_else(rate, np.zeros((p, d), dtype=int)),
        transfer_blocks=or_else(moved, np.zeros(n, dtype=int)),
        decode_ticks=decode,
        kv_blocks=or_else(kv, np.ones(n, dtype=int)),
        kv_capacity=or_else(capacity, np.full(d, 1000)),
        prefill_free_tick=or_else(free_tick, np.zeros(p, dtype=int)),
        held_decode=held[:, 0],
        held_start=held[:, 1],
        held_end=held[:, 2],
        held_blocks=held[:, 3],
        workflow=workflow,
        objective=Objective(
            slope,
            or_else(intercept, np.zeros_like(slope)),
            or_else(tail, np.zeros(n, dtype=int)),
            or_else(weight, np.zeros(n, dtype=int)),
            aggregate,
        ),
    )


def random_problem(seed: int, num_calls: int = 4, num_prefill: int = 2, num_decode: int = 2) -> Problem:
    """Every feature at once: locked calls, forbidden replicas, tight KV, held intervals, pair lags, tails, pieces."""
    rng = np.random.default_rng(seed)
    n, p, d = num_calls, num_prefill, num_decode
    workflow = np.unique(rng.integers(0, max(1, n - 1), n), return_inverse=True)[1]
    num_workflows = int(workflow.max(initial=-1)) + 1
    prefill = rng.integers(1, 8, (n, p))
    prefill[rng.random((n, p)) < 0.15] = -1
    prefill[np.arange(n), rng.integers(0, p, n)] = rng.integers(1, 8, n)
    decode = rng.integers(1, 9, (n, d))
    decode[rng.random((n, d)) < 0.15] = -1
    decode[np.arange(n), rng.integers(0, d, n)] = rng.integers(1, 9, n)
    locked = np.where((rng.random(n) < 0.25), decode.argmax(axis=1), -1)
    slope = np.sort(rng.integers(0, 5, (num_workflows, 2)), axis=1)
    held = [
        (int(rng.integers(0, d)), int(start), int(start + rng.integers(0, 9)), int(rng.integers(1, 12)))
        for start in rng.integers(-2, 6, int(rng.integers(0, 4)))
    ]
    return make_problem(
        prefill,
        decode,
        kv=rng.integers(1, 8, n),
        capacity=rng.integers(7, 13, d),
        transfer=rng.integers(0, 4, (p, d)),
        rate=rng.integers(0, 5, (p, d)),
        moved=rng.integers(0, 1024, n),
        release=rng.integers(0, 6, n),
        locked=locked,
        free_tick=rng.integers(0, 5, p),
        held=held,
        workflow=workflow,
        slope=slope,
        intercept=np.stack([np.zeros(num_workflows, dtype=int), -10 * (slope[:, 1] - slope[:, 0])], axis=1),
        tail=rng.integers(0, 5, n),
        weight=rng.integers(0, 2, n),
        aggregate="sum" if rng.random() < 0.75 else "max",
    )


def brute_force(problem: Problem) -> tuple[int, Decision] | None:
    """Cheapest decision, or None if there is none, by enumeration that shares nothing with timetable or CP-SAT.

    For every choice of replicas, every order of prefills on each replica and every order of decodes on each replica,
    both stages are packed to the left. That contains an optimum: costs never rise with earlier finishes; packing an
    optimal decision's prefills to the left only moves KV arrivals earlier; then insert its decodes by increasing start
    tick, each at its earliest fit. By induction each lands no later than it was: all placed before it started no
    later than it did and have only moved left, so at any tick of its old span they use no more KV than before.
    """
    best: tuple[int, Decision] | None = None
    everywhere = list(range(problem.num_calls))
    for pairs in product(*(_pairs(problem, c) for c in everywhere)):
        for starts in {_pack_prefills(problem, pairs, order) for order in _orders(p for p, _ in pairs)}:
            for decode_start in {
                _pack_decodes(problem, pairs, starts, order) for order in _orders(d for _, d in pairs)
            }:
                prefill, decode = zip(*pairs, strict=True) if pairs else ((), ())
                decision = Decision(*(np.array(row, dtype=int) for row in (prefill, decode, starts, decode_start)))
                price = cost(problem, decision)
                if best is None or price < best[0]:
                    best = price, decision
    assert best is None or violations(problem, best[1]) == []
    return best


def _pairs(problem: Problem, c: int) -> list[tuple[int, int]]:
    locked = int(problem.locked_decode[c])
    sources = [-1] if locked >= 0 else [p for p in range(problem.num_prefill) if problem.prefill_ticks[c, p] > 0]
    targets = [locked] if locked >= 0 else range(problem.num_decode)
    return [
        (p, d)
        for p in sources
        for d in targets
        if problem.decode_ticks[c, d] > 0 and problem.kv_blocks[c] <= problem.kv_capacity[d]
    ]


def _orders(replicas: Any) -> Any:
    """Every combination of one order per replica, as one sequence of calls."""
    groups: dict[int, list[int]] = {}
    for c, replica in enumerate(replicas):
        groups.setdefault(replica, []).append(c)
    for combination in product(*(permutations(group) for group in groups.values())):
        yield [c for group in combination for c in group]


def _pack_prefills(problem: Problem, pairs: Any, order: Any) -> tuple[int, ...]:
    free_tick = problem.prefill_free_tick.tolist()
    starts = [-1] * problem.num_calls
    for c in order:
        p = pairs[c][0]
        if p >= 0:
            starts[c] = max(free_tick[p], int(problem.release_tick[c]))
            free_tick[p] = starts[c] + int(problem.prefill_ticks[c, p])
    return tuple(starts)


def _pack_decodes(problem: Problem, pairs: Any, starts: Any, order: Any) -> tuple[int, ...]:
    use = np.zeros((problem.num_decode, 500), dtype=int)
    held = zip(problem.held_decode, problem.held_start, problem.held_end, problem.held_blocks, strict=True)
    for d, start, end, blocks in held:
        use[d, max(0, start) : max(0, end)] += blocks
    decode_start = [0] * problem.num_calls
    for c in order:
        p, d = pairs[c]
        tick = int(problem.release_tick[c])
        if p >= 0:
            moved = int(problem.transfer_rate_ticks[p, d]) * int(problem.transfer_blocks[c])
            tick = starts[c] + int(problem.prefill_ticks[c, p] + problem.transfer_base_ticks[p, d]) + -(-moved // 1024)
        length, room = int(problem.decode_ticks[c, d]), int(problem.kv_capacity[d] - problem.kv_blocks[c])
        while use[d, tick : tick + length].max() > room:
            tick += 1
        assert tick + length < use.shape[1], "enumeration is for tiny problems"
        use[d, tick : tick + length] += problem.kv_blocks[c]
        decode_start[c] = tick
    return tuple(decode_start)
