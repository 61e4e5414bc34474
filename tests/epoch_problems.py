"""Small epoch problems for tests: a builder with defaults, seeded random problems and decisions, the same problem under
other numbers, and a slow exact enumerator."""

from collections.abc import Collection
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np

from hexsolve_models.decision import Decision
from hexsolve_models.objective import Objective
from hexsolve_models.problem import Problem
from hexsolve_models.referee import cost, violations

FEATURES = ("crowding", "edges", "late", "caps")
"""What `random_problem` adds on request."""

HINTS = 4  # random decisions from which a cap takes the cheapest


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
    crowding: Any = None,
    uncrowded: Any = None,
    edges: Any = (),
    due: Any = None,
    late: Any = None,
    caps: Any = (),
) -> Problem:
    """Each call its own workflow with cost = finish, room for all, no transfer time, unless said otherwise.

    `held` is a list of (decode replica, start, end, blocks), `edges` of (before, after, lag), `caps` of (objective,
    limit). `late` are the weights of the step at `due`. With `crowding`, one call per replica is `uncrowded`.
    """
    prefill, decode = np.array(prefill), np.array(decode)
    n, p, d = len(decode), prefill.shape[1], decode.shape[1]
    workflow = np.arange(n) if workflow is None else np.array(workflow)
    num_workflows = int(workflow.max(initial=-1)) + 1
    slope = np.ones((num_workflows, 1), dtype=int) if slope is None else np.array(slope)
    held = np.array(held, dtype=int).reshape(-1, 4)
    edges = np.array(edges, dtype=int).reshape(-1, 3)

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
            due_tick=due,
            late_weight=late,
        ),
        crowding_ticks=or_else(crowding, np.zeros((n, d), dtype=int)),
        uncrowded_calls=or_else(uncrowded, np.ones(d, dtype=int)),
        edge_before=edges[:, 0],
        edge_after=edges[:, 1],
        edge_lag=edges[:, 2],
        caps=tuple(caps),
    )


def random_problem(
    seed: int, num_calls: int = 4, num_prefill: int = 2, num_decode: int = 2, features: Collection[str] = ()
) -> Problem:
    """Locked calls, forbidden replicas, tight KV, held intervals, pair lags, tails and pieces, all at once.

    `features` adds any of `FEATURES` and leaves the rest as it is without them. A cap's limit is what
    `hint_within_caps` costs, so that it can be met, and often not easily.
    """
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
    problem = make_problem(
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
    assert set(features) <= set(FEATURES), f"{features}: expected some of {FEATURES}"
    for feature, add in (("crowding", _add_crowding), ("edges", _add_edges), ("late", _add_steps), ("caps", _add_cap)):
        if feature in features:
            problem = add(problem, np.random.default_rng([seed, FEATURES.index(feature)]))
    return problem


def _add_crowding(problem: Problem, rng: np.random.Generator) -> Problem:
    return replace(
        problem,
        crowding_ticks=rng.integers(0, 4, problem.decode_ticks.shape),
        uncrowded_calls=rng.integers(0, 3, problem.num_decode),
    )


def _add_edges(problem: Problem, rng: np.random.Generator) -> Problem:
    rank = rng.permutation(problem.num_calls)  # edges lead to higher ranks: no cycles
    before, after = np.nonzero((rank[:, None] < rank) & problem.is_free & (rng.random((rank.size, rank.size)) < 0.3))
    return replace(problem, edge_before=before, edge_after=after, edge_lag=rng.integers(0, 4, before.size))


def _add_steps(problem: Problem, rng: np.random.Generator) -> Problem:
    steps = _random_steps(problem, rng)
    return replace(problem, objective=replace(problem.objective, **steps))


def _add_cap(problem: Problem, rng: np.random.Generator) -> Problem:
    flat = np.zeros((problem.num_workflows, 1), dtype=int)
    objective = replace(
        problem.objective,
        slope=flat,
        intercept=flat,
        call_weight=np.zeros(problem.num_calls, dtype=int),
        aggregate="sum",
        **_random_steps(problem, rng),
    )
    hints = [random_decision(problem, seed) for seed in range(HINTS)]
    limit = min((cost(problem, hint, objective) for hint in hints if hint is not None), default=0)
    return replace(problem, caps=((objective, limit),))


def _random_steps(problem: Problem, rng: np.random.Generator) -> dict[str, Any]:
    w = problem.num_workflows
    return {"due_tick": rng.integers(-2, 40, w), "late_weight": rng.integers(0, 20, w)}


def random_decision(problem: Problem, seed: int) -> Decision | None:
    """Random replicas, and calls one after the other along the edges, packed to the left; None if one is blocked.

    Allowed, caps apart, and made without the code under test.
    """
    rng = np.random.default_rng(seed)
    choices = [_pairs(problem, c) for c in range(problem.num_calls)]
    if not all(choices):
        return None
    pairs = [options[rng.integers(len(options))] for options in choices]
    missing = set(range(problem.num_calls))
    order: list[int] = []
    while missing:
        ready = [c for c in sorted(missing) if not any(before in missing for before, _ in _comes_after(problem)[c])]
        order.append(ready[rng.integers(len(ready))])
        missing.remove(order[-1])
    starts = _pack(problem, pairs, order, order)
    assert starts is not None, "an order along the edges is free of circles"
    return _decision(pairs, *starts)


def hint_within_caps(problem: Problem) -> Decision | None:
    """Of a few random decisions the cheapest under the first cap: it meets a cap drawn by `random_problem`."""
    hints = [hint for seed in range(HINTS) if (hint := random_decision(problem, seed)) is not None]
    return min(hints, key=lambda hint: [cost(problem, hint, cap) for cap, _ in problem.caps], default=None)


def renumbered(problem: Problem, rng: np.random.Generator) -> Problem:
    """The same problem with calls, replicas, workflows and edges in another order."""
    calls, p, d, w, e = (
        rng.permutation(n)
        for n in (
            problem.num_calls,
            problem.num_prefill,
            problem.num_decode,
            problem.num_workflows,
            problem.edge_before.size,
        )
    )
    new_call, new_decode, new_workflow = np.argsort(calls), np.argsort(d), np.argsort(w)
    locked = problem.locked_decode[calls]

    def moved(old: Objective) -> Objective:
        return replace(
            old,
            slope=old.slope[w],
            intercept=old.intercept[w],
            tail_ticks=old.tail_ticks[calls],
            call_weight=old.call_weight[calls],
            due_tick=old.due_tick[w],
            late_weight=old.late_weight[w],
        )

    return replace(
        problem,
        prefill_ticks=problem.prefill_ticks[calls][:, p],
        locked_decode=np.where(locked < 0, -1, new_decode[locked]),
        release_tick=problem.release_tick[calls],
        transfer_base_ticks=problem.transfer_base_ticks[p][:, d],
        transfer_rate_ticks=problem.transfer_rate_ticks[p][:, d],
        transfer_blocks=problem.transfer_blocks[calls],
        decode_ticks=problem.decode_ticks[calls][:, d],
        kv_blocks=problem.kv_blocks[calls],
        kv_capacity=problem.kv_capacity[d],
        prefill_free_tick=problem.prefill_free_tick[p],
        held_decode=new_decode[problem.held_decode],
        workflow=new_workflow[problem.workflow[calls]],
        objective=moved(problem.objective),
        crowding_ticks=problem.crowding_ticks[calls][:, d],
        uncrowded_calls=problem.uncrowded_calls[d],
        edge_before=new_call[problem.edge_before[e]],
        edge_after=new_call[problem.edge_after[e]],
        edge_lag=problem.edge_lag[e],
        caps=tuple((moved(objective), limit) for objective, limit in problem.caps),
    )


def with_a_twin(problem: Problem, is_prefill: bool) -> Problem:
    """The problem with its first prefill or decode replica twice."""
    axis = 0 if is_prefill else 1
    by_call = ("prefill_ticks",) if is_prefill else ("decode_ticks", "crowding_ticks")
    own = ("prefill_free_tick",) if is_prefill else ("kv_capacity", "uncrowded_calls")
    places = dict.fromkeys(("transfer_base_ticks", "transfer_rate_ticks"), axis)
    places |= dict.fromkeys(by_call, 1) | dict.fromkeys(own, 0)

    def twice(field: str, axis: int) -> Any:
        array = getattr(problem, field)
        return np.concatenate([array, array.take([0], axis=axis)], axis=axis)

    return replace(problem, **{field: twice(field, axis) for field, axis in places.items()})


def brute_force(problem: Problem) -> tuple[int, Decision] | None:
    """Cheapest decision, or None if there is none, by enumeration that shares nothing with timetable or CP-SAT.

    For every choice of replicas, every order of prefills on each replica and every order of decodes on each replica,
    everything is packed to the left. That contains an optimum. Take an optimal decision with its replicas, which fix
    the durations, crowding included. Insert its prefills and decodes by increasing start (decodes that start together
    by index), prefills right after the one before on the replica, decodes at their earliest fit. Whatever an operation
    waits for - the prefill before it, its own prefill, the decode an edge comes from - starts earlier in the optimum,
    so it is there when it is needed: orders for which it is not are orders of no decision, and skipped. By induction
    everything lands no later than it was: prefills because what they wait for has only moved left; a decode because all
    placed before it started no later than it did and have only moved left, so at any tick of its old span they use no
    more KV than before. Costs, steps and caps included, never rise with earlier finishes.
    """
    best: tuple[int, Decision] | None = None
    for pairs in product(*(_pairs(problem, c) for c in range(problem.num_calls))):
        packed = {
            _pack(problem, pairs, prefills, decodes)
            for prefills in _orders(p for p, _ in pairs)
            for decodes in _orders(d for _, d in pairs)
        }
        for starts in packed - {None}:
            decision = _decision(pairs, *starts)
            if any(cost(problem, decision, objective) > limit for objective, limit in problem.caps):
                continue
            price = cost(problem, decision)
            if best is None or price < best[0]:
                best = price, decision
    assert best is None or violations(problem, best[1]) == []
    return best


def _decision(pairs: Any, starts: Any, decode_starts: Any) -> Decision:
    prefill, decode = zip(*pairs, strict=True) if pairs else ((), ())
    return Decision(*(np.array(row, dtype=int) for row in (prefill, decode, starts, decode_starts)))


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


def _comes_after(problem: Problem) -> list[list[tuple[int, int]]]:
    """For every call the (call, lag) its prefill waits for."""
    waits: list[list[tuple[int, int]]] = [[] for _ in range(problem.num_calls)]
    for before, after, lag in zip(problem.edge_before, problem.edge_after, problem.edge_lag, strict=True):
        waits[after].append((int(before), int(lag)))
    return waits


def _pack(problem: Problem, pairs: Any, prefills: Any, decodes: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(prefill starts, decode starts), each operation as early as those before it on its replica and what it waits for
    allow; None if the orders and the edges wait for one another in a circle."""
    packing = _Packing(problem, pairs)
    queues = [[(packing.prefill, c) for c in prefills if pairs[c][0] == p] for p in range(problem.num_prefill)]
    queues += [[(packing.decode, c) for c in decodes if pairs[c][1] == d] for d in range(problem.num_decode)]
    while any(queues):
        left = sum(map(len, queues))
        for queue in queues:
            while queue and queue[0][0](queue[0][1]):
                queue.pop(0)
        if sum(map(len, queues)) == left:
            return None
    return tuple(packing.starts), tuple(packing.decode_starts)


class _Packing:
    """Starts so far, tick by tick; a step returns whether what it waits for was there."""

    def __init__(self, problem: Problem, pairs: Any) -> None:
        self.problem, self.pairs, self.waits = problem, pairs, _comes_after(problem)
        self.starts, self.decode_starts = [-1] * problem.num_calls, [-1] * problem.num_calls
        self.finish: dict[int, int] = {}
        self.free_tick = problem.prefill_free_tick.tolist()
        self.use = [[0] * 500 for _ in range(problem.num_decode)]
        held = zip(problem.held_decode, problem.held_start, problem.held_end, problem.held_blocks, strict=True)
        for d, start, end, blocks in held:
            for tick in range(max(0, start), max(0, end)):
                self.use[d][tick] += int(blocks)

    def prefill(self, c: int) -> bool:
        p, waits = self.pairs[c][0], self.waits[c]
        if any(before not in self.finish for before, _ in waits):
            return False
        after = [self.finish[before] + lag for before, lag in waits]
        self.starts[c] = max([int(self.problem.release_tick[c]), self.free_tick[p], *after])
        self.free_tick[p] = self.starts[c] + int(self.problem.prefill_ticks[c, p])
        return True

    def decode(self, c: int) -> bool:
        problem, (p, d) = self.problem, self.pairs[c]
        tick, blocks = int(problem.release_tick[c]), int(problem.kv_blocks[c])
        if p >= 0:
            if self.starts[c] < 0:
                return False
            moved = int(problem.transfer_rate_ticks[p, d]) * int(problem.transfer_blocks[c])
            lag = int(problem.transfer_base_ticks[p, d]) + (moved + 1023) // 1024
            tick = self.starts[c] + int(problem.prefill_ticks[c, p]) + lag
        excess = max(0, [pair[1] for pair in self.pairs].count(d) - int(problem.uncrowded_calls[d]))
        length = int(problem.decode_ticks[c, d]) + int(problem.crowding_ticks[c, d]) * excess
        use = self.use[d]
        while max(use[tick : tick + length]) + blocks > problem.kv_capacity[d]:
            tick += 1
        assert tick + length < len(use), "enumeration is for tiny problems"
        for busy in range(tick, tick + length):
            use[busy] += blocks
        self.decode_starts[c], self.finish[c] = tick, tick + length
        return True
