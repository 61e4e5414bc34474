"""Small offline problems for tests of bounds: hand-made, random, and every decision that an order of calls makes."""

import itertools
import random

import numpy as np

from hexsolve_models.offline import OfflineDecision, OfflineProblem


def line(release, prefill, decode, *, reference, workflow=None, edges=(), **more):
    """A problem of calls with one row of ticks each; no transfer time and more KV than needed unless said otherwise."""
    prefill, decode = np.atleast_2d(np.array(prefill).T).T, np.atleast_2d(np.array(decode).T).T
    calls = len(prefill)
    before, after, lag = zip(*edges, strict=True) if edges else ((), (), ())
    fields = {
        "workflow": np.arange(calls) if workflow is None else workflow,
        "release_tick": release,
        "reference_ticks": reference,
        "edge_before": np.array(before, dtype=np.int64),
        "edge_after": np.array(after, dtype=np.int64),
        "edge_lag": np.array(lag, dtype=np.int64),
        "ready_lag": np.zeros(calls, dtype=np.int64),
        "prefill_ticks": prefill,
        "transfer_base_ticks": np.zeros((prefill.shape[1], decode.shape[1]), dtype=np.int64),
        "transfer_rate_ticks": np.zeros((prefill.shape[1], decode.shape[1]), dtype=np.int64),
        "transfer_blocks": np.ones(calls, dtype=np.int64),
        "decode_ticks": decode,
        "decode_work": np.where(decode < 0, -1, 0),
        "kv_blocks": np.ones(calls, dtype=np.int64),
        "kv_capacity": np.full(decode.shape[1], calls),
    }
    return OfflineProblem(**(fields | more))


def random_problem(seed, most_workflows=4, most_calls=2, replicas=2, decode_work=False):
    """A few workflows of a few calls on unrelated replicas, some of them not allowed; every call can be placed."""
    rng = random.Random(seed)
    sizes = [rng.randint(1, most_calls) for _ in range(rng.randint(1, most_workflows))]
    workflow = [w for w, size in enumerate(sizes) for _ in range(size)]
    calls, pools = len(workflow), (rng.randint(1, replicas), rng.randint(1, replicas))
    edges, first = [], 0
    for size in sizes:
        for c in range(1, size):
            parents = rng.sample(range(c), rng.randint(0, min(2, c)))
            edges += [(first + parent, first + c, rng.choice((0, 0, 3))) for parent in parents]
        first += size

    def ticks(most, count):
        rows = [[rng.choice((-1, *range(1, most))) for _ in range(count)] for _ in range(calls)]
        for row in rows:
            row[rng.randrange(count)] = rng.randint(1, most)
        return np.array(rows)

    prefill, decode = ticks(9, pools[0]), ticks(12, pools[1])
    blocks = np.array([rng.randint(1, 4) for _ in range(calls)])
    share = rng.choice((0.5, 1.0))
    return line(
        [rng.randint(0, 12) for _ in sizes],
        prefill,
        decode,
        workflow=workflow,
        edges=edges,
        reference=[rng.randint(5, 20) for _ in sizes],
        ready_lag=np.array([rng.choice((0, 0, 2)) for _ in range(calls)]),
        prefill_work=np.where(prefill < 0, -1, (prefill * share).astype(np.int64)),
        transfer_base_ticks=np.array([[rng.randint(0, 3) for _ in range(pools[1])] for _ in range(pools[0])]),
        transfer_rate_ticks=np.array([[rng.choice((0, 700)) for _ in range(pools[1])] for _ in range(pools[0])]),
        kv_blocks=blocks,
        kv_capacity=np.array([rng.randint(int(blocks.max()), 8) for _ in range(pools[1])]),
        decode_work=np.where(decode < 0, -1, decode // 2 if decode_work else 0),
    )


def decisions(problem):
    """Every decision that comes of an order of the calls and a choice of replicas, each call as early as it can."""
    calls = range(problem.num_calls)
    pairs = [
        [(p, d) for p in np.flatnonzero(problem.prefill_allowed[c]) for d in np.flatnonzero(problem.decode_allowed[c])]
        for c in calls
    ]
    for order in itertools.permutations(calls):
        place = {c: i for i, c in enumerate(order)}
        if all(place[b] < place[a] for b, a in zip(problem.edge_before, problem.edge_after, strict=True)):
            for chosen in itertools.product(*pairs):
                yield _in_order(problem, order, chosen)


def _in_order(problem, order, chosen):
    """Tick by tick: the first at which it fits."""
    busy = [set() for _ in range(problem.num_prefill)]
    held = [{} for _ in range(problem.num_decode)]
    start, decode_start, finish = {}, {}, {}
    for c in order:
        p, d = chosen[c]
        ready = int(problem.release_tick[problem.workflow[c]] + problem.ready_lag[c])
        ready = max([ready, *(finish[b] + lag for b, lag in problem.parents[c])])
        work, ticks = int(problem.prefill_work[c, p]), int(problem.decode_ticks[c, d])
        at = ready
        while busy[p] & set(range(at, at + work)):
            at += 1
        busy[p] |= set(range(at, at + work))
        start[c] = at
        at = max(at + work, ready + int(problem.prefill_ticks[c, p])) + int(problem.transfer(c)[p, d])
        room = int(problem.kv_capacity[d] - problem.kv_blocks[c])
        while any(held[d].get(t, 0) > room for t in range(at, at + ticks)):
            at += 1
        for t in range(at, at + ticks):
            held[d][t] = held[d].get(t, 0) + int(problem.kv_blocks[c])
        decode_start[c], finish[c] = at, at + ticks
    calls = range(problem.num_calls)
    return OfflineDecision(
        np.array([chosen[c][0] for c in calls]),
        np.array([chosen[c][1] for c in calls]),
        np.array([start[c] for c in calls]),
        np.array([decode_start[c] for c in calls]),
    )
