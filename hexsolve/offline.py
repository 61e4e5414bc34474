"""A workload on a cluster in hindsight, as an `OfflineProblem`. Knows true lengths and physics; knows no policy.

The only translator from seconds and tokens to offline ticks. Everything is rounded so that the problem is a relaxation
of every simulated run (models/README.md §9.2): what a solver proves about it holds for every policy.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hexsolve.cluster import BLOCK_TOKENS, Cluster
from hexsolve.errors import InputError
from hexsolve.least_times import decode_floor, prefill_floor
from hexsolve.workflow import Workflow, Workload
from hexsolve_models.offline import OfflineProblem
from hexsolve_models.offline.problem import MAX_TICK, RATE_BLOCKS

_SLACK = 1e-6  # of a tick: the simulator's sums of doubles may end this much before the true sum
_TOKENS_PER_RATE = RATE_BLOCKS * BLOCK_TOKENS


def offline_problem(
    workload: Workload,
    cluster: Cluster,
    alone_ms: ArrayLike,
    *,
    tick_ms: float = 0.1,
    prefix_reuse: bool = True,
    lengths_known: bool = True,
) -> OfflineProblem:
    """What no policy can do better than; calls by workflow, then as in the workflow.

    Runs with `SimOptions.chunk_tokens` are not covered: calls that take turns on a prefill replica are no decision.

    Parameters
    ----------
    alone_ms : f8[W]
        Makespan of every workflow alone, > 0, by workflow in workload order (`hexsolve.sim.standalone_makespans`).
    tick_ms : float
        Length of a tick, > 0; durations are rounded down to ticks.
    prefix_reuse : bool
        As for `simulate`.
    lengths_known : bool
        True: for runs with the oracle predictor and without faults, in which no call ever leaves its decode replica.
        False: for every run. Then calls may be pushed back and decoded in parts, so that KV and decode work do not
        count and every decode is as fast as on the fastest replica.

    Raises
    ------
    InputError
        On a number out of range, or a call that fits no decode replica.
    """
    alone = _check(workload, alone_ms, tick_ms)
    calls = [call for workflow in workload.workflows for call in workflow.calls]
    prompts = np.array([call.input_tokens for call in calls], dtype=np.int64)
    outputs = np.array([call.output_tokens for call in calls], dtype=np.int64)
    prefill_ms, prefill_work_ms = _prefill(workload, cluster, prefix_reuse, lengths_known)
    decode_ms, decode_work_ms = _decode(cluster, prompts, outputs)
    kv_blocks = -(-(prompts + outputs) // BLOCK_TOKENS)
    fits = kv_blocks[:, None] <= cluster.kv_capacity_blocks
    if not fits.any(axis=1).all():
        c = int(np.argmin(fits.any(axis=1)))
        raise InputError(
            f"call {calls[c].request_id!r}: expected at most {cluster.kv_capacity_blocks.max()} KV blocks (no decode "
            f"replica holds more), got {kv_blocks[c]}"
        )
    if not lengths_known:
        decode_ms = np.broadcast_to(decode_ms.min(axis=1, keepdims=True), decode_ms.shape)
        decode_work_ms, kv_blocks, fits = np.zeros_like(decode_ms), np.zeros_like(kv_blocks), np.ones_like(fits)
    before, after, lag_ms = _edges(workload)
    arrivals = np.array([workflow.arrival_ms for workflow in workload.workflows])
    prefill_ticks, prefill_work = _ticks(prefill_ms, tick_ms), _ticks(prefill_work_ms, tick_ms)
    decode_ticks, decode_work = (np.where(fits, _ticks(ms, tick_ms), -1) for ms in (decode_ms, decode_work_ms))
    first = np.array([0.0 if call.dependencies else call.delay_ms for call in calls])
    return OfflineProblem(
        workflow=np.repeat(np.arange(len(alone)), [len(workflow.calls) for workflow in workload.workflows]),
        release_tick=np.floor(arrivals / tick_ms).astype(np.int64),
        reference_ticks=_references(workload, alone / tick_ms, prefill_ms, decode_ms, tick_ms),
        edge_before=before,
        edge_after=after,
        edge_lag=_ticks(lag_ms, tick_ms),
        ready_lag=_ticks(first, tick_ms),
        prefill_ticks=prefill_ticks,
        transfer_base_ticks=_ticks(
            np.broadcast_to(cluster.transfer_fixed_ms[:, None], cluster.transfer_ms_per_token.shape), tick_ms
        ),
        transfer_rate_ticks=_ticks(cluster.transfer_ms_per_token * _TOKENS_PER_RATE, tick_ms),
        transfer_blocks=prompts // BLOCK_TOKENS,
        decode_ticks=decode_ticks,
        decode_work=decode_work,
        kv_blocks=kv_blocks,
        kv_capacity=cluster.kv_capacity_blocks,
        prefill_work=prefill_work,
    )


def _check(workload: Workload, alone_ms: ArrayLike, tick_ms: float) -> NDArray[np.float64]:
    if not (np.isfinite(tick_ms) and tick_ms > 0):
        raise InputError(f"tick_ms: expected a finite number > 0, got {tick_ms!r}")
    alone = np.asarray(alone_ms, dtype=np.float64)
    if not workload.workflows or alone.shape != (len(workload.workflows),):
        raise InputError(f"alone_ms: expected [{len(workload.workflows)}] with at least one, got {list(alone.shape)}")
    wrong = np.flatnonzero(~(np.isfinite(alone) & (alone > 0)))
    if wrong.size:
        raise InputError(f"alone_ms[{wrong[0]}]: expected a finite number > 0, got {alone[wrong[0]]}")
    latest = max(workload.workflows[-1].arrival_ms, float(alone.max())) / tick_ms
    if latest > MAX_TICK // 4:
        raise InputError(f"tick_ms: expected at least {latest * tick_ms * 4 / MAX_TICK:g} for times so long")
    return alone


def _ticks(ms: NDArray[np.float64], tick_ms: float) -> NDArray[np.int64]:
    """Whole ticks, rounded down."""
    return np.maximum(0, np.floor(ms / tick_ms - _SLACK)).astype(np.int64)


def _prefill(
    workload: Workload, cluster: Cluster, prefix_reuse: bool, lengths_known: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, P] least latency and work of every prefill, ms."""
    calls = [call for workflow in workload.workflows for call in workflow.calls]
    reuse: list[set[int]] = [{0} for _ in calls]
    if prefix_reuse:
        reuse = [found for workflow in workload.workflows for found in _reusable(workflow, lengths_known)]
    least_new = min(call.input_tokens - max(found) for call, found in zip(calls, reuse, strict=True))
    longest = max(call.input_tokens for call in calls)
    known: dict[object, NDArray[np.float64]] = {}
    columns = []
    for replica in cluster.prefill:
        key = replica.profile, replica.max_batch_tokens, replica.kv_capacity_tokens
        if key not in known:
            floor = prefill_floor(replica, least_new, longest, prefixes_known=lengths_known)
            most = replica.kv_capacity_tokens
            known[key] = np.array(
                [
                    floor.times(call.input_tokens, {min(prefix, most) for prefix in prefixes})
                    for call, prefixes in zip(calls, reuse, strict=True)
                ]
            )
        columns.append(known[key])
    both = np.stack(columns, axis=1)
    return both[:, :, 0], both[:, :, 1]


def _reusable(workflow: Workflow, lengths_known: bool) -> list[set[int]]:
    """By call: numbers of prefix tokens that a prefill replica of unlimited memory may hold for it; 0 is always there.

    A replica holds what earlier calls of the group prefilled there: calls that do not themselves wait for this one.
    With unknown lengths a call may come back with its output as prompt, so that any number up to the most is possible.
    """
    calls = workflow.calls
    after = _descendants(workflow)
    groups: dict[str, list[int]] = {}
    for i, call in enumerate(calls):
        groups.setdefault(call.prefix_group, []).append(i)
    found: list[set[int]] = []
    for i, call in enumerate(calls):
        most = call.cached_prefix_tokens
        held = {0}
        if most and not lengths_known:
            held.add(most)
        elif most:
            others = groups[call.prefix_group]
            held |= {min(most, calls[j].input_tokens) for j in others if j != i and not after[i] >> j & 1}
        found.append(held)
    return found


def _descendants(workflow: Workflow) -> list[int]:
    """By call: the calls that wait for it, directly or not, as bits of an integer."""
    children = workflow.children_indices()
    after = [0] * len(workflow.calls)
    for i in reversed(workflow.topological_order()):
        for child in children[i]:
            after[i] |= after[child] | 1 << child
    return after


def _decode(
    cluster: Cluster, prompts: NDArray[np.int64], outputs: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[N, D] least latency and work of every decode, ms."""
    known: dict[object, NDArray[np.float64]] = {}
    columns = []
    for replica in cluster.decode:
        key = replica.profile, replica.max_running, replica.kv_capacity_tokens
        if key not in known:
            floor = decode_floor(replica, prompts, outputs)
            known[key] = np.array([floor.times(int(p), int(o)) for p, o in zip(prompts, outputs, strict=True)])
        columns.append(known[key])
    both = np.stack(columns, axis=1)
    return both[:, :, 0], both[:, :, 1]


def _edges(workload: Workload) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Call before, call after and tool delay in ms of every dependency."""
    rows: list[tuple[int, int, float]] = []
    offset = 0
    for workflow in workload.workflows:
        for i, parents in enumerate(workflow.parent_indices()):
            rows += [(offset + parent, offset + i, workflow.calls[i].delay_ms) for parent in parents]
        offset += len(workflow.calls)
    before, after, lag = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    return before.astype(np.int64), after.astype(np.int64), lag.astype(np.float64)


def _references(
    workload: Workload,
    alone: NDArray[np.float64],
    prefill_ms: NDArray[np.float64],
    decode_ms: NDArray[np.float64],
    tick_ms: float,
) -> NDArray[np.int64]:
    """[W] H_w in ticks, so large that rounding arrivals and finishes to ticks cannot raise a stretch.

    A response of X ticks is at most X + 1 between rounded ticks. X is at least the time L of one call of the workflow,
    so that dividing by H (1 + 1/L), rounded up, instead of H makes up for it.
    """
    least = (prefill_ms.min(axis=1) + decode_ms.min(axis=1)) / tick_ms
    sizes: Sequence[int] = [len(workflow.calls) for workflow in workload.workflows]
    longest = np.maximum.reduceat(least, np.concatenate([[0], np.cumsum(sizes)[:-1]]))
    references: NDArray[np.int64] = np.ceil(alone * (1 + 1 / np.maximum(longest, 1e-9))).astype(np.int64)
    return references
