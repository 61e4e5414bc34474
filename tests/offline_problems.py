"""Tiny offline instances and their optima by enumeration. Shares no code with formulations, lists or windows."""

import numpy as np

from hexsolve_models.offline import OfflineDecision, OfflineProblem


def instance(**fields):
    """One workflow of one call on 1P+1D: 3 ticks of prefill, 5 of decode, nothing in between; fields replace these."""
    base = {
        "workflow": [0],
        "release_tick": [0],
        "reference_ticks": [1],
        "edge_before": [],
        "edge_after": [],
        "edge_lag": [],
        "ready_lag": [0],
        "prefill_ticks": [[3]],
        "transfer_base_ticks": [[0]],
        "transfer_rate_ticks": [[0]],
        "transfer_blocks": [0],
        "decode_ticks": [[5]],
        "decode_work": [[0]],
        "kv_blocks": [1],
        "kv_capacity": [100],
    }
    return OfflineProblem(**{name: np.array(value) for name, value in (base | fields).items()})


def random_instance(seed, *, scarce=False):
    """Up to 4 calls (3 where KV is scarce) in up to 3 workflows on up to 2P+2D, with every feature at random."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 4 if scarce else 5))
    p, d, w = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(1, min(n, 3) + 1))
    workflow = np.concatenate([np.arange(w), rng.integers(0, w, n - w)])
    edges = [(i, j, int(rng.integers(0, 4))) for i in range(n) for j in range(i + 1, n)]
    edges = [edge for edge in edges if workflow[edge[0]] == workflow[edge[1]] and rng.random() < 0.6]
    before, after, lag = (np.array([edge[k] for edge in edges], dtype=np.int64) for k in range(3))
    prefill = rng.integers(0, 9, (n, p))
    prefill[(rng.random((n, p)) < 0.2) & (np.arange(p) > 0)] = -1
    work = np.where(prefill < 0, -1, rng.integers(0, np.maximum(prefill, 0) + 1)) if rng.random() < 0.6 else prefill
    decode = rng.integers(0, 9, (n, d))
    decode[(rng.random((n, d)) < 0.2) & (np.arange(d) > 0)] = -1
    kv = rng.integers(1, 7, n)
    return OfflineProblem(
        workflow=workflow,
        release_tick=rng.integers(0, 8, w),
        reference_ticks=rng.integers(1, 7, w),
        edge_before=before,
        edge_after=after,
        edge_lag=lag,
        ready_lag=rng.integers(0, 3, n),
        prefill_ticks=prefill,
        transfer_base_ticks=rng.integers(0, 4, (p, d)),
        transfer_rate_ticks=rng.integers(0, 3000, (p, d)),
        transfer_blocks=rng.integers(0, 4, n),
        decode_ticks=decode,
        decode_work=np.minimum(decode, 1),
        kv_blocks=kv,
        kv_capacity=rng.integers(6, 10, d) if scarce else np.full(d, 100),
        prefill_work=work,
    )


def best_by_enumeration(problem, goals):
    """The optimum of every goal: replicas × orders of starts, each prefill and decode as early as those before allow.

    Stages are added in the order in which they start, so each prefill goes behind the last on its replica, and each
    decode to the first tick at which its KV fits beside the decodes before it. That reaches an optimum: take an optimal
    decision and add its stages in the order of their starts; none lands later than it was.
    """
    n = problem.num_calls
    best = [None] * len(goals)
    scarce = [int(problem.kv_blocks.sum()) > int(capacity) for capacity in problem.kv_capacity]
    prefilled, placed = {}, {}  # call -> (p, start, end), call -> (d, start, finish)

    def leaf():
        decision = OfflineDecision(
            np.array([prefilled[c][0] for c in range(n)], dtype=np.int64),
            np.array([placed[c][0] for c in range(n)], dtype=np.int64),
            np.array([prefilled[c][1] for c in range(n)], dtype=np.int64),
            np.array([placed[c][1] for c in range(n)], dtype=np.int64),
        )
        for k, goal in enumerate(goals):
            value = goal.value(problem, decision)
            if best[k] is None or value < best[k]:
                best[k] = value

    def add_decode(c, go_on):
        p, _, end = prefilled[c]
        for d in range(problem.num_decode):
            if problem.decode_ticks[c, d] < 0 or problem.kv_blocks[c] > problem.kv_capacity[d]:
                continue
            rate, blocks = int(problem.transfer_rate_ticks[p, d]), int(problem.transfer_blocks[c])
            start = end + int(problem.transfer_base_ticks[p, d]) + rate * blocks // 1024
            ticks = int(problem.decode_ticks[c, d])
            while scarce[d] and not fits(c, d, start, ticks):
                start += 1
            placed[c] = d, start, start + ticks
            go_on()
            del placed[c]

    def fits(c, d, start, ticks):
        for tick in range(start, start + ticks):
            there = [i for i, (on, begin, finish) in placed.items() if on == d and begin <= tick < finish]
            if sum(int(problem.kv_blocks[i]) for i in [*there, c]) > problem.kv_capacity[d]:
                return False
        return True

    def extend():
        if len(placed) == n:
            leaf()
            return
        waiting = [c for c in prefilled if c not in placed]
        if waiting and not any(scarce):  # the place of a decode in the order does not matter
            add_decode(waiting[0], extend)
            return
        for c in waiting:
            add_decode(c, extend)
        for c in range(n):
            edges = [e for e in range(problem.edge_before.size) if problem.edge_after[e] == c]
            if c in prefilled or any(int(problem.edge_before[e]) not in placed for e in edges):
                continue
            ready = int(problem.release_tick[problem.workflow[c]] + problem.ready_lag[c])
            ready = max([ready, *(placed[int(problem.edge_before[e])][2] + int(problem.edge_lag[e]) for e in edges)])
            for p in range(problem.num_prefill):
                if problem.prefill_ticks[c, p] < 0:
                    continue
                work = int(problem.prefill_work[c, p])
                behind = [begin + int(problem.prefill_work[i, p]) for i, (on, begin, _) in prefilled.items() if on == p]
                start = max([ready, *behind]) if work else ready
                prefilled[c] = p, start, max(start + work, ready + int(problem.prefill_ticks[c, p]))
                extend()
                del prefilled[c]

    extend()
    return best


def renumbered(problem, seed):
    """The same instance with calls, workflows and replicas in another order."""
    rng = np.random.default_rng(seed)
    call, flow, p, d = (
        rng.permutation(size)
        for size in (problem.num_calls, problem.num_workflows, problem.num_prefill, problem.num_decode)
    )
    new_call, new_flow = np.argsort(call), np.argsort(flow)
    return OfflineProblem(
        workflow=new_flow[problem.workflow[call]],
        release_tick=problem.release_tick[flow],
        reference_ticks=problem.reference_ticks[flow],
        edge_before=new_call[problem.edge_before],
        edge_after=new_call[problem.edge_after],
        edge_lag=problem.edge_lag,
        ready_lag=problem.ready_lag[call],
        prefill_ticks=problem.prefill_ticks[call][:, p],
        transfer_base_ticks=problem.transfer_base_ticks[p][:, d],
        transfer_rate_ticks=problem.transfer_rate_ticks[p][:, d],
        transfer_blocks=problem.transfer_blocks[call],
        decode_ticks=problem.decode_ticks[call][:, d],
        decode_work=problem.decode_work[call][:, d],
        kv_blocks=problem.kv_blocks[call],
        kv_capacity=problem.kv_capacity[d],
        prefill_work=problem.prefill_work[call][:, p],
    )
