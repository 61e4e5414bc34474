"""The simulator with the real engine: every event is one the state believes, and both count the same KV."""

from collections import Counter

import numpy as np
import pytest
from twin_workloads import TABLE, cluster, profile, random_workload

from hexsolve.engine import FixedLatency, PlacementEngine
from hexsolve.sim import Fault, SimOptions, required_scale, simulate, standalone_makespans, stretches
from hexsolve.tables import DECODE

OUTAGES = (
    Fault(100.0, "decode", 0, "down"),
    Fault(120.0, "prefill", 1, "down"),
    Fault(250.0, "decode", 0, "up"),
    Fault(300.0, "prefill", 1, "up"),
    Fault(400.0, "decode", 1, "down"),
    Fault(401.0, "decode", 0, "down"),  # for a while there is no decode replica at all
    Fault(800.0, "decode", 1, "up"),
    Fault(810.0, "decode", 0, "up"),
)


def small_cluster(kv_capacity_tokens=272):
    return cluster(
        2, 2, speed=profile(TABLE), kv_capacity_tokens=kv_capacity_tokens, prefill_kv_tokens=300, bandwidth_gb_s=0.05
    )


class Watched(PlacementEngine):
    """Checks at every decision that the KV the state counts for running calls is within capacity."""

    def decide(self, now_ms):
        calls, decodes = self.state.snapshot(now_ms).calls, self.state.decodes
        running = calls[calls["stage"] == DECODE]
        used = np.bincount(running["decode"], weights=running["kv_blocks"], minlength=len(decodes))
        assert (used <= decodes["capacity_blocks"]).all()
        return super().decide(now_ms)


@pytest.mark.parametrize("policy", ["round-robin", "hexagent"])
@pytest.mark.parametrize("predictor", ["oracle", "noisy:0.8", "learned"])
@pytest.mark.parametrize("faults", [(), OUTAGES], ids=["calm", "outages"])
def test_the_state_believes_every_event(policy, predictor, faults):
    totals = Counter()
    for seed in range(3):
        workload = random_workload(seed, reuse=True)
        engine = Watched(small_cluster(), policy, rehearse=False)
        options = SimOptions(faults=faults, growth_tokens=16)
        result = simulate(small_cluster(), workload, engine, predictor=predictor, options=options, seed=seed)
        assert engine.state.anomalies == Counter()
        assert not engine.state.workflows
        assert result.num_calls == workload.num_calls
        totals.update(pushbacks=result.counters.pushbacks, losses=result.counters.losses)
    assert (totals["losses"] > 0) == bool(faults)
    if predictor == "noisy:0.8":  # `learned` starts from 256 tokens and reserves too much here, never too little
        assert totals["pushbacks"] > 0


def test_an_asynchronous_engine_wakes_up_for_its_plans():
    workload = random_workload(1, num_workflows=20)
    engine = PlacementEngine(small_cluster(), "hexagent", latency=FixedLatency(5.0), epoch_ms=20.0, rehearse=False)
    result = simulate(small_cluster(), workload, engine)
    assert sum(engine.stats.landed.values()) > 0
    assert result.num_calls == workload.num_calls
    assert engine.state.anomalies == Counter()


def test_load_makes_workflows_slower_than_alone():
    workload = random_workload(2, num_workflows=20, spread_ms=100.0)
    servers = small_cluster(kv_capacity_tokens=2000)

    def engine_for(servers):
        return PlacementEngine(servers, "hexagent", rehearse=False)

    alone_ms = standalone_makespans(servers, workload, engine_for)
    result = simulate(servers, workload, engine_for(servers))
    stretch = stretches(result.arrival_ms, result.finish_ms, alone_ms)
    assert stretch.min() > 0.9  # alone is greedy, not optimal
    assert required_scale(stretch, 0.95) > 1.5
