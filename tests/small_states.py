"""Small clusters with round numbers and busy states on them, for tests of the engine's core."""

from dataclasses import replace

import numpy as np

from hexsolve.cluster import Cluster, Replica
from hexsolve.listplan import plan_by_risk
from hexsolve.policy import Plan
from hexsolve.profile import DecodeLine, PrefillLine, Profile
from hexsolve.state import ClusterState
from hexsolve.tables import PREFILL, TRANSFER, WAIT_DECODE, WAIT_PREFILL


def profile(*, prefill=(10.0, 0.1), decode=(10.0, 0.0, 0.0), gpu="G") -> Profile:
    """Prefill a + b·N ms, decode step a + b·B + c·C ms, 0.1 ms of transfer per token at 1 GB/s, no other overhead."""
    return Profile(
        llm="tiny",
        gpu=gpu,
        tp=1,
        engine="test",
        prefill=PrefillLine(prefill[0], prefill[1], 0.0),
        decode=DecodeLine(*decode),
        kv_bytes_per_token=100_000,
        kappa_prefill=1.0,
        kappa_decode=1.0,
        ttft_overhead_ms=0.0,
    )


ONE = (profile(),)


def cluster(prefill=ONE, decode=ONE, *, kv_tokens=16_000, max_running=256, latency_ms=2.0) -> Cluster:
    """One replica per profile, named P0, P1, ... and D0, D1, ...; `kv_tokens` of all decode replicas, or one each."""
    tokens = (kv_tokens,) * len(decode) if isinstance(kv_tokens, int) else kv_tokens
    return Cluster(
        "small",
        "tiny",
        tuple(Replica(f"P{i}", "prefill", p.gpu, 1, p, 16_000, 1.0) for i, p in enumerate(prefill)),
        tuple(
            Replica(f"D{i}", "decode", p.gpu, 1, p, t, 1.0, max_running=max_running)
            for i, (p, t) in enumerate(zip(decode, tokens, strict=True))
        ),
        latency_ms,
    )


def mixed_cluster(*, kv_tokens=40_000, batch_aware=True, max_running=256) -> Cluster:
    """Three prefill and three decode replicas of unequal speed; with `batch_aware` the step grows with its batch."""
    b, c = (0.7, 0.0003) if batch_aware else (0.0, 0.0)
    prefill = tuple(profile(prefill=(a, rate)) for a, rate in ((10.0, 0.1), (5.0, 0.17), (8.0, 0.06)))
    decode = tuple(profile(decode=(a, b * f, c * f)) for a, f in ((10.0, 1.0), (14.0, 1.3), (7.0, 0.8)))
    return cluster(prefill, decode, kv_tokens=kv_tokens, max_running=max_running)


def ready(state: ClusterState, now_ms=0.0, *, workflow=None, name="a", tokens=(100, 50), **more) -> int:
    """Reveal one call of (input, predicted output) tokens, by default in a workflow of its own; returns its slot."""
    if workflow is None:
        workflow = state.workflow_open(now_ms, f"w{state.revision}")
    return state.call_ready(now_ms, workflow, name, input_tokens=tokens[0], predicted_output_tokens=tokens[1], **more)


def adopt(state: ClusterState, plan: Plan) -> None:
    """Take over a plan's placements, without an engine."""
    free = state.stage[plan.slots] == WAIT_PREFILL
    state.prefill[plan.slots[free]] = plan.prefill[free]
    state.decode[plan.slots[free]] = plan.decode[free]
    state.rank[plan.slots] = plan.rank


def push(state: ClusterState, slot: int, now_ms: float, until: str) -> None:
    """Drive a placed call through prefill, transfer, wait and decode, all at `now_ms`, up to stage `until`."""
    state.prefill_started(now_ms, slot, int(state.prefill[slot]))
    if until == "prefill":
        return
    state.prefill_done(now_ms, slot)
    if until == "transfer":
        return
    state.transfer_done(now_ms, slot)
    if until == "wait":
        return
    state.decode_started(now_ms, slot)


def busy_state(
    seed: int, on: Cluster, *, num_calls: int = 14, num_busy: int = 8, max_tokens: int = 900
) -> ClusterState:
    """`num_busy` calls in every later stage and `num_calls` that wait for prefill, in workflows of up to four calls."""
    rng = np.random.default_rng(seed)
    state = ClusterState(on)
    workflows = [state.workflow_open(0.0, f"w{i}", arrival_ms=0.0) for i in range(1 + (num_calls + num_busy) // 3)]

    def reveal(now_ms: float, count: int, prefix: str) -> list[int]:
        return [
            ready(
                state,
                now_ms,
                workflow=int(rng.choice(workflows)),
                name=f"{prefix}{i}",
                tokens=(int(rng.integers(32, max_tokens)), int(rng.integers(4, max_tokens // 4))),
                cached_prefix_tokens=int(rng.integers(0, 31)),
                prefix_group=str(rng.choice(["", "g", "h"])),
            )
            for i in range(count)
        ]

    busy = reveal(0.0, num_busy, "busy")
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    now_ms = 0.0
    for slot in busy:
        now_ms += float(rng.uniform(0.0, 40.0))
        push(state, slot, now_ms, str(rng.choice(["prefill", "transfer", "wait", "decode", "decode", "decode"])))
    for workflow in workflows:
        state.prefix_held(workflow, "g", int(rng.integers(on.num_prefill)), int(rng.integers(1, 40)))
    for p in range(on.num_prefill):
        state.prefill_batch(now_ms, p, now_ms + float(rng.uniform(-20.0, 60.0)))
    reveal(now_ms + float(rng.uniform(0.0, 5.0)), num_calls, "new")
    return state


def with_slots_shuffled(state: ClusterState, seed: int, now_ms: float):
    """Snapshots before and after a renumbering of the calls: the same facts, rows in another order."""
    snapshot = state.snapshot(now_ms)
    order = np.random.default_rng(seed).permutation(len(snapshot.calls))
    shuffled = replace(
        snapshot,
        calls=np.ascontiguousarray(snapshot.calls[order]),
        prefill_ms=np.ascontiguousarray(snapshot.prefill_ms[order]),
    )
    return snapshot, shuffled


IN_FLIGHT = (PREFILL, TRANSFER)
WAITING = (WAIT_PREFILL, WAIT_DECODE)
