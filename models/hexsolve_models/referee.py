"""The judge: is a decision allowed, and what does it cost? Plain Python on purpose; shares no code with any formulation
or timetable, so that a mistake there cannot hide here."""

from collections import Counter
from itertools import pairwise

from hexsolve_models.decision import Decision
from hexsolve_models.objective import Ints, Objective
from hexsolve_models.problem import Problem


def violations(problem: Problem, decision: Decision) -> list[str]:
    """Every broken rule with its name, call, replica and numbers; empty if and only if the decision is allowed."""
    wrong = _wrong_sizes(problem, decision)
    if wrong:
        return wrong
    for c in range(problem.num_calls):
        wrong += _wrong_replicas(problem, decision, c)
    if wrong:
        return wrong
    for c in range(problem.num_calls):
        wrong += _wrong_times(problem, decision, c)
    for p, calls in _by_replica(decision.prefill).items():
        wrong += _prefill_overlaps(problem, decision, p, calls)
    ticks, held = _durations(problem, decision), _by_replica(problem.held_decode)
    for d, calls in _by_replica(decision.decode).items():
        wrong += _kv_overflows(problem, decision, d, calls, held.get(d, []), ticks)
    return wrong + _late_edges(problem, decision) + _broken_caps(problem, decision)


def cost(problem: Problem, decision: Decision, objective: Objective | None = None) -> int:
    """The objective of an allowed decision, or another one, in exact integers (models/README.md §3)."""
    objective = objective or problem.objective
    last: dict[int, int] = {}
    own = 0
    for c, ticks in enumerate(_durations(problem, decision)):
        finish = int(decision.decode_start[c]) + ticks
        w = int(problem.workflow[c])
        last[w] = max(last.get(w, 0), finish + int(objective.tail_ticks[c]))
        own += int(objective.call_weight[c]) * finish
    per_workflow: list[int] = []
    for w, finish in last.items():
        lines = zip(objective.slope[w].tolist(), objective.intercept[w].tolist(), strict=True)
        late = int(objective.late_weight[w]) if finish > objective.due_tick[w] else 0
        per_workflow.append(late + max(slope * finish + intercept for slope, intercept in lines))
    if objective.aggregate == "max":
        return max(per_workflow, default=0) + own
    return sum(per_workflow) + own


def _durations(problem: Problem, decision: Decision) -> list[int]:
    """Decode ticks of every call beside all the others that the decision puts on its replica."""
    together = Counter(decision.decode.tolist())
    ticks = []
    for c, d in enumerate(decision.decode.tolist()):
        excess = max(0, together[d] - int(problem.uncrowded_calls[d]))
        ticks.append(int(problem.decode_ticks[c, d]) + int(problem.crowding_ticks[c, d]) * excess)
    return ticks


def _late_edges(problem: Problem, decision: Decision) -> list[str]:
    wrong, ticks = [], _durations(problem, decision)
    for before, after, lag in zip(problem.edge_before, problem.edge_after, problem.edge_lag, strict=True):
        finish = int(decision.decode_start[before]) + ticks[before]
        start = int(decision.prefill_start[after])
        if start < finish + lag:
            wrong.append(f"edge: call {after} starts at {start}, {lag} after call {before} is {finish + lag}")
    return wrong


def _broken_caps(problem: Problem, decision: Decision) -> list[str]:
    prices = [(cost(problem, decision, objective), limit) for objective, limit in problem.caps]
    return [f"cap {i}: costs {price}, at most {limit}" for i, (price, limit) in enumerate(prices) if price > limit]


def _wrong_sizes(problem: Problem, decision: Decision) -> list[str]:
    n = problem.num_calls
    sizes = {name: getattr(decision, name).size for name in ("prefill", "decode", "prefill_start", "decode_start")}
    return [f"size: decision.{name} has {size} entries, expected {n}" for name, size in sizes.items() if size != n]


def _wrong_replicas(problem: Problem, decision: Decision, c: int) -> list[str]:
    p, d, bound = int(decision.prefill[c]), int(decision.decode[c]), int(problem.locked_decode[c])
    wrong = []
    if bound >= 0 and d != bound:
        wrong.append(f"locked decode: call {c} is bound to decode replica {bound}, placed on {d}")
    if bound >= 0 and (p != -1 or decision.prefill_start[c] != -1):
        wrong.append(
            f"locked prefill: call {c} has no prefill to place, got replica {p}, start {decision.prefill_start[c]}"
        )
    if bound < 0 and not (0 <= p < problem.num_prefill and problem.prefill_ticks[c, p] >= 1):
        wrong.append(f"prefill replica: call {c} may not prefill on replica {p}")
    if not (0 <= d < problem.num_decode and problem.decode_ticks[c, d] >= 1):
        wrong.append(f"decode replica: call {c} may not decode on replica {d}")
    return wrong


def _wrong_times(problem: Problem, decision: Decision, c: int) -> list[str]:
    start, decode_start, release = (
        int(decision.prefill_start[c]),
        int(decision.decode_start[c]),
        int(problem.release_tick[c]),
    )
    d = int(decision.decode[c])
    if problem.locked_decode[c] >= 0:
        if decode_start < release:
            return [f"release: locked call {c} decodes on replica {d} at {decode_start}, its KV is there at {release}"]
        return []
    p = int(decision.prefill[c])
    wrong = []
    if start < release:
        wrong.append(f"release: call {c} prefills on replica {p} at {start}, released at {release}")
    if start < problem.prefill_free_tick[p]:
        wrong.append(f"busy prefill: call {c} starts on replica {p} at {start}, free at {problem.prefill_free_tick[p]}")
    moved = int(problem.transfer_rate_ticks[p, d]) * int(problem.transfer_blocks[c])
    lag = int(problem.transfer_base_ticks[p, d]) + (moved + 1023) // 1024
    arrival = start + int(problem.prefill_ticks[c, p]) + lag
    if decode_start < arrival:
        wrong.append(f"transfer: call {c} decodes on replica {d} at {decode_start}, its KV arrives at {arrival}")
    return wrong


def _by_replica(replicas: Ints) -> dict[int, list[int]]:
    """Indices that share a replica, by replica; -1 is none."""
    groups: dict[int, list[int]] = {}
    for i, replica in enumerate(replicas.tolist()):
        if replica >= 0:
            groups.setdefault(replica, []).append(i)
    return groups


def _prefill_overlaps(problem: Problem, decision: Decision, p: int, calls: list[int]) -> list[str]:
    spans = sorted(
        (int(decision.prefill_start[c]), int(decision.prefill_start[c]) + int(problem.prefill_ticks[c, p]), c)
        for c in calls
    )
    return [
        f"prefill overlap: calls {first} and {second} on replica {p}, {second} starts at {start} before {end}"
        for (_, end, first), (start, _, second) in pairwise(spans)
        if start < end
    ]


def _kv_overflows(
    problem: Problem, decision: Decision, d: int, calls: list[int], held_here: list[int], ticks: list[int]
) -> list[str]:
    """Held + placed <= capacity at every start of a placed call: use only rises at starts, and a held interval that
    starts inside a placed call counts as well."""
    capacity = int(problem.kv_capacity[d])
    if int(problem.kv_blocks[calls].sum()) + int(problem.held_blocks[held_here].sum()) <= capacity:
        return []  # even all at once
    placed = [
        (int(decision.decode_start[c]), int(decision.decode_start[c]) + ticks[c], int(problem.kv_blocks[c]), c)
        for c in calls
    ]
    held = [(int(problem.held_start[h]), int(problem.held_end[h]), int(problem.held_blocks[h])) for h in held_here]
    wrong = []
    for tick in sorted({start for start, *_ in placed} | {start for start, *_ in held}):
        running = [(c, blocks) for start, end, blocks, c in placed if start <= tick < end]
        use = sum(blocks for _, blocks in running) + sum(b for start, end, b in held if start <= tick < end)
        if running and use > capacity:
            overfull = ", ".join(str(c) for c, _ in running)
            wrong.append(f"KV capacity: {use} > {capacity} blocks on decode replica {d} at {tick}, calls {overfull}")
    return wrong
