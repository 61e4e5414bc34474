"""What a sensitivity study changes about the world. Knows clusters and faults; knows no policy and no workload.

A setting changes what is simulated, never the arrivals: a load ρ is that of the unchanged cluster, so that all settings
of a study see the same workflows at the same times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from hexsolve.cluster import BLOCK_TOKENS, Cluster, Replica
from hexsolve.profile_file import Name, NonNegative, Positive
from hexsolve.sim import EnginePort, Fault, StatePort


class Failure(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A replica that goes down in mid-run with all KV it holds.

    Attributes
    ----------
    role, index : which replica; it has to exist in every cluster of the study.
    at : when, as a share (>= 0) of the time until the last arrival, or of the mean H_w where that is longer (bursts).
    down_for_s : how long, > 0; None is for good.
    """

    role: Literal["prefill", "decode"]
    index: Annotated[int, Meta(ge=0)] = 0
    at: NonNegative = 0.5
    down_for_s: Positive | None = None


class Setting(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One point of a sensitivity study; what is not given stays as the cluster has it.

    Attributes
    ----------
    gpu_speed : speed factor > 0 by GPU type, on prefill and decode; types that a cluster lacks are passed over.
    kappa_prefill, kappa_decode : server time over kernel time, > 0, before `gpu_speed`.
    ttft_overhead_ms : fixed time on the way to the first token, >= 0.
    bandwidth_gb_s : of every replica's network, > 0 (TCP on 10 GbE about 1.25, one 400G NIC 40).
    link_latency_ms : fixed time per KV transfer, >= 0.
    kv_scale : factor > 0 on the KV capacity of decode replicas.
    predictor : see `hexsolve.predict.parse_predictor`; None takes the study's.
    reaction_ms : a decision is taken this much later than it is asked for, >= 0 (`Late`).
    prefix_reuse : whether prefill replicas keep prefixes.
    failure : a replica that fails.
    """

    name: Name = "base"
    gpu_speed: dict[Name, Positive] = field(default_factory=dict)
    kappa_prefill: Positive | None = None
    kappa_decode: Positive | None = None
    ttft_overhead_ms: NonNegative | None = None
    bandwidth_gb_s: Positive | None = None
    link_latency_ms: NonNegative | None = None
    kv_scale: Positive = 1.0
    predictor: Name | None = None
    reaction_ms: NonNegative = 0.0
    prefix_reuse: bool = True
    failure: Failure | None = None

    def cluster(self, base: Cluster) -> Cluster:
        """`base` as this setting has it.

        Raises
        ------
        InputError
            If the result is no cluster, such as one without room for a block of KV.
        """
        changed = replace(
            base,
            prefill=tuple(self._replica(replica) for replica in base.prefill),
            decode=tuple(self._replica(replica) for replica in base.decode),
            link_latency_ms=base.link_latency_ms if self.link_latency_ms is None else self.link_latency_ms,
        )
        gpus = {replica.gpu for replica in base.prefill + base.decode}
        return changed.scaled({gpu: speed for gpu, speed in self.gpu_speed.items() if gpu in gpus})

    def _replica(self, replica: Replica) -> Replica:
        profile = replace(
            replica.profile,
            **_given(
                kappa_prefill=self.kappa_prefill,
                kappa_decode=self.kappa_decode,
                ttft_overhead_ms=self.ttft_overhead_ms,
            ),
        )
        changes = _given(bandwidth_gb_s=self.bandwidth_gb_s)
        if replica.role == "decode" and self.kv_scale != 1.0:
            blocks = int(replica.kv_capacity_tokens * self.kv_scale) // BLOCK_TOKENS
            changes["kv_capacity_tokens"] = blocks * BLOCK_TOKENS
        return replace(replica, profile=profile, **changes)

    def faults(self, last_arrival_ms: float, mean_alone_ms: float) -> tuple[Fault, ...]:
        """The failure as events of a run."""
        if self.failure is None:
            return ()
        role, index, down_for_s = self.failure.role, self.failure.index, self.failure.down_for_s
        down_ms = self.failure.at * max(last_arrival_ms, mean_alone_ms)
        down = Fault(down_ms, role, index, "down")
        return (down,) if down_for_s is None else (down, Fault(down_ms + 1e3 * down_for_s, role, index, "up"))


def _given(**values: float | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class Late:
    """An engine whose scheduler takes its time: what is asked at t is decided at t + `reaction_ms`, as things are then.

    Whatever else happens until then is decided along with it, so decisions are never more than `reaction_ms` apart from
    what asked for them. A plan that the engine makes in the background lands when it did before.
    """

    def __init__(self, engine: EnginePort, reaction_ms: float) -> None:
        self._engine = engine
        self._reaction_ms = reaction_ms
        self._due_ms = inf

    @property
    def state(self) -> StatePort:
        """The engine's."""
        return self._engine.state

    def decide(self, now_ms: float) -> Sequence[int]:
        """Decide if it is time, else note when it will be."""
        if now_ms >= self._due_ms or now_ms >= self._engine.next_wakeup_ms():
            self._due_ms = inf
            return self._engine.decide(now_ms)
        self._due_ms = min(self._due_ms, now_ms + self._reaction_ms)
        return ()

    def next_wakeup_ms(self) -> float:
        """When the engine's answer is due, or it has something of its own."""
        return min(self._due_ms, self._engine.next_wakeup_ms())

    def needs_decision(self, event_kind: str) -> bool:
        """The engine's."""
        return self._engine.needs_decision(event_kind)


def unknown_gpus(setting: Setting, clusters: Mapping[str, Cluster]) -> list[str]:
    """GPU types of `gpu_speed` that no cluster has."""
    present = {replica.gpu for cluster in clusters.values() for replica in cluster.prefill + cluster.decode}
    return sorted(set(setting.gpu_speed) - present)
