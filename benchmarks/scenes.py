"""Made-up moments of a busy cluster, for benchmarks of one decision. Seeded; built through the state's own events."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from hexsolve.arrivals import Poisson
from hexsolve.catalog import library, load_cluster
from hexsolve.cluster import Cluster
from hexsolve.cluster_file import read_cluster_text
from hexsolve.engine import PlacementEngine
from hexsolve.generate import generate
from hexsolve.listplan import plan_by_risk
from hexsolve.policy import Plan
from hexsolve.sim import simulate
from hexsolve.snapshot import Snapshot
from hexsolve.state import ClusterState

_GPUS = ("A100", "A100", "H100", "H100", "H100", "H200", "H200", "H200")  # either pool of Hetero-1


def cluster_file(num_prefill: int, num_decode: int, kv_tokens: int | None = None) -> dict[str, Any]:
    """A llama-3.1-70b cluster of the given size as the content of a cluster file: the paper's Hetero-1, its replicas
    dealt out in turn (2 A100, 3 H100 and 3 H200 in every 8).

    With `kv_tokens` every decode replica holds just so many, as where other LLMs share its GPUs.
    """
    decode = _groups(num_decode)
    if kv_tokens is not None:
        decode = [group | {"kv_capacity_tokens": kv_tokens} for group in decode]
    name = f"bench-{num_prefill}x{num_decode}"
    return {"name": name, "llm": "llama3.1-70b", "prefill": _groups(num_prefill), "decode": decode}


def _groups(count: int) -> list[dict[str, Any]]:
    dealt = Counter(_GPUS[i * 3 % 8] for i in range(count))
    return [{"gpu": gpu, "tp": 4, "count": dealt[gpu]} for gpu in sorted(dealt)]


def cluster_of(num_prefill: int, num_decode: int) -> Cluster:
    """The cluster of `cluster_file`."""
    return read_cluster_text(json.dumps(cluster_file(num_prefill, num_decode)), "bench", ".json", library())


def busy_snapshot(waiting: int, num_prefill: int, num_decode: int, *, running: int = 50, seed: int = 0) -> Snapshot:
    """`waiting` calls wait (one in five locked), `running` calls decode on every decode replica.

    Prompts and outputs are log-normal around 700 and 60 tokens; workflow ages and horizons spread the risks.
    """
    rng = np.random.default_rng(seed)
    state = ClusterState(cluster_of(num_prefill, num_decode))
    now_ms = 20_000.0
    for i in range(waiting + running * num_decode):
        arrival_ms = float(rng.uniform(0.0, now_ms))
        workflow = state.workflow_open(0.0, f"w{i}", "bench", arrival_ms)
        slot = state.call_ready(
            0.0,
            workflow,
            "c",
            input_tokens=int(np.clip(rng.lognormal(6.5, 0.8), 16, 30_000)),
            predicted_output_tokens=int(np.clip(rng.lognormal(4.1, 0.9), 1, 4_000)),
        )
        is_running = i >= waiting
        if is_running or rng.random() < 0.2:
            state.prefill[slot], state.decode[slot] = i % num_prefill, i % num_decode
            state.prefill_started(0.0, slot, i % num_prefill)
            state.prefill_done(0.0, slot)
            state.transfer_done(0.0, slot)
            if is_running:
                state.decode_started(0.0, slot)
    for p in range(num_prefill):
        state.prefill_batch(0.0, p, now_ms + float(rng.uniform(0.0, 200.0)))
    return state.snapshot(100.0)


class _Recorder:
    """HexAGenT's greedy that keeps a copy of every snapshot with exactly `waiting` calls."""

    name, replans = "hexagent", True

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.kept: list[Snapshot] = []

    def plan(self, snapshot: Snapshot) -> Plan:
        if len(snapshot.waiting) == self.waiting:
            self.kept.append(copy_of(snapshot))
        return plan_by_risk(snapshot)


def copy_of(snapshot: Snapshot) -> Snapshot:
    """A snapshot that outlives the state it is a view of."""
    names = ("calls", "prefill_ms", "held_tokens", "prefills", "decodes")
    return replace(snapshot, **{name: getattr(snapshot, name).copy() for name in names})


def recorded_snapshots(waiting: int, count: int) -> list[Snapshot]:
    """`count` moments with exactly `waiting` waiting calls, from simulations of text2sql, bfcl and mixed on Hetero-1.

    Rates are near saturation; seeds go on until there are enough moments, at most eight of one run.
    """
    cluster = load_cluster("hetero-1-llama-70b")
    found: list[Snapshot] = []
    seed = 0
    while len(found) < count:
        for name, rate_per_s in (("text2sql", 2.1), ("bfcl", 14.0), ("mixed", 3.6)):
            recorder = _Recorder(waiting)
            simulate(
                cluster,
                generate(name, 100, seed=seed, arrivals=Poisson(rate_per_s)),
                PlacementEngine(cluster, recorder),
            )
            kept = recorder.kept
            found += kept[:: max(1, len(kept) // 8)][:8]
        seed += 1
    return found[:count]
