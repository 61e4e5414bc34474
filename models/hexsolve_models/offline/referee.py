"""The judge of offline decisions: is it allowed, and what is it worth? Plain Python on purpose; shares no code with any
formulation, so that a mistake there cannot hide here. Objectives are exact (models/README.md §9)."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil

from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem


def violations(problem: OfflineProblem, decision: OfflineDecision) -> list[str]:
    """Every broken rule with its calls, replica and numbers; empty if and only if the decision is allowed."""
    wrong = _wrong_sizes(problem, decision)
    if wrong:
        return wrong
    for c in range(problem.num_calls):
        wrong += _wrong_replicas(problem, decision, c)
    if wrong:
        return wrong
    ready = ready_ticks(problem, decision)
    for c in range(problem.num_calls):
        wrong += _wrong_times(problem, decision, c, ready[c])
    for p in range(problem.num_prefill):
        wrong += _prefill_overlaps(problem, decision, p)
    for d in range(problem.num_decode):
        wrong += _kv_overflows(problem, decision, d)
    return wrong


def call_finishes(problem: OfflineProblem, decision: OfflineDecision) -> list[int]:
    """By call: decode start + decode ticks."""
    return [
        int(decision.decode_start[c]) + int(problem.decode_ticks[c, decision.decode[c]])
        for c in range(problem.num_calls)
    ]


def ready_ticks(problem: OfflineProblem, decision: OfflineDecision) -> list[int]:
    """By call: release + lag, or the last finish before it + lag, whichever is later."""
    finish = call_finishes(problem, decision)
    ready = [int(problem.release_tick[problem.workflow[c]] + problem.ready_lag[c]) for c in range(problem.num_calls)]
    for e in range(problem.edge_before.size):
        after = int(problem.edge_after[e])
        ready[after] = max(ready[after], finish[problem.edge_before[e]] + int(problem.edge_lag[e]))
    return ready


def finish_ticks(problem: OfflineProblem, decision: OfflineDecision) -> list[int]:
    """F_w by workflow: its last call's finish."""
    last = [0] * problem.num_workflows
    for c, finish in enumerate(call_finishes(problem, decision)):
        w = int(problem.workflow[c])
        last[w] = max(last[w], finish)
    return last


def stretches(problem: OfflineProblem, finish: Sequence[int]) -> list[Fraction]:
    """R_w = (F_w - release_w) / reference_w, exactly."""
    return [
        Fraction(int(f) - int(problem.release_tick[w]), int(problem.reference_ticks[w])) for w, f in enumerate(finish)
    ]


def late_count(ratios: Sequence[Fraction], alpha: Fraction) -> int:
    """Workflows with R_w > alpha."""
    return sum(ratio > alpha for ratio in ratios)


def req(ratios: Sequence[Fraction], q: Fraction) -> Fraction:
    """Req_q: the smallest alpha with at least q of the workflows on time, 0 < q <= 1; 0 without workflows.

    That is the ceil(q W)-th smallest R_w.
    """
    if not 0 < q <= 1:
        raise ValueError(f"q = {q}: expected 0 < q <= 1")
    return sorted(ratios)[ceil(q * len(ratios)) - 1] if ratios else Fraction(0)


def max_stretch(ratios: Sequence[Fraction]) -> Fraction:
    """The largest R_w; 0 without workflows."""
    return max(ratios, default=Fraction(0))


def mean_stretch(ratios: Sequence[Fraction]) -> Fraction:
    """The mean R_w; 0 without workflows."""
    return sum(ratios, Fraction(0)) / max(1, len(ratios))


def _wrong_sizes(problem: OfflineProblem, decision: OfflineDecision) -> list[str]:
    return [
        f"decision.{name} has {len(getattr(decision, name))} entries: expected {problem.num_calls}"
        for name in ("prefill", "decode", "prefill_start", "decode_start")
        if len(getattr(decision, name)) != problem.num_calls
    ]


def _wrong_replicas(problem: OfflineProblem, decision: OfflineDecision, c: int) -> list[str]:
    p, d = int(decision.prefill[c]), int(decision.decode[c])
    wrong = []
    if not (0 <= p < problem.num_prefill and problem.prefill_ticks[c, p] >= 0):
        wrong.append(f"call {c}: prefill on {p}: not allowed")
    if not (0 <= d < problem.num_decode and problem.decode_ticks[c, d] >= 0):
        wrong.append(f"call {c}: decode on {d}: not allowed")
    return wrong


def _wrong_times(problem: OfflineProblem, decision: OfflineDecision, c: int, ready: int) -> list[str]:
    p, d = int(decision.prefill[c]), int(decision.decode[c])
    start, wrong = int(decision.prefill_start[c]), []
    if start < ready:
        wrong.append(f"call {c}: prefill starts at {start}: expected no earlier than it is ready, {ready}")
    prefilled = max(start + int(problem.prefill_work[c, p]), ready + int(problem.prefill_ticks[c, p]))
    blocks, rate = int(problem.transfer_blocks[c]), int(problem.transfer_rate_ticks[p, d])
    arrival = prefilled + int(problem.transfer_base_ticks[p, d]) + blocks * rate // 1024
    if decision.decode_start[c] < arrival:
        wrong.append(f"call {c}: decode starts at {decision.decode_start[c]}: expected no earlier than {arrival}")
    return wrong


def _prefill_overlaps(problem: OfflineProblem, decision: OfflineDecision, p: int) -> list[str]:
    spans = []
    for c in range(problem.num_calls):
        work = int(problem.prefill_work[c, p])
        if decision.prefill[c] == p and work > 0:
            start = int(decision.prefill_start[c])
            spans.append((start, start + work, c))
    return [
        f"prefill replica {p}: call {later[2]} starts at {later[0]}, call {earlier[2]} ends at {earlier[1]}"
        for earlier, later in pairwise(sorted(spans))
        if later[0] < earlier[1]
    ]


def _kv_overflows(problem: OfflineProblem, decision: OfflineDecision, d: int) -> list[str]:
    changes: dict[int, int] = {}
    capacity, wrong, held = int(problem.kv_capacity[d]), [], 0
    for c in range(problem.num_calls):
        if decision.decode[c] != d:
            continue
        start, ticks, blocks = int(decision.decode_start[c]), int(problem.decode_ticks[c, d]), int(problem.kv_blocks[c])
        if blocks > capacity:
            wrong.append(f"call {c}: {blocks} KV blocks: expected at most {capacity}, the capacity of replica {d}")
        changes[start] = changes.get(start, 0) + blocks
        changes[start + ticks] = changes.get(start + ticks, 0) - blocks
    for tick in sorted(changes):
        held += changes[tick]
        if held > capacity:
            wrong.append(f"decode replica {d}: {held} KV blocks at tick {tick}: expected at most {capacity}")
    return wrong
