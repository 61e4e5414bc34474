"""The jumping simulator against a second one that walks every decode step."""

import random

import pytest
from twin_engine import FakeEngine
from twin_stepwise import slow_finish_ms
from twin_workloads import LINE, TABLE, cluster, profile, random_workload

from hexsolve.sim import simulate


def placements(workload, num_prefill, num_decode, seed):
    """Random replica pair and random distinct rank for every call."""
    rng = random.Random(seed)
    names = [(w.workflow_id, c.request_id) for w in workload.workflows for c in w.calls]
    ranks = list(range(len(names)))
    rng.shuffle(ranks)
    return {
        name: (rng.randrange(num_prefill), rng.randrange(num_decode), rank)
        for name, rank in zip(names, ranks, strict=True)
    }


def both(servers, workload, seed):
    chosen = placements(workload, servers.num_prefill, servers.num_decode, seed)
    engine = FakeEngine(servers, lambda _serial, workflow, request: chosen[workflow, request])
    result = simulate(servers, workload, engine)
    fast = {(record.workflow_id, record.request_id): record.done_ms for record in result.records()}
    slow = slow_finish_ms(servers, workload, lambda workflow, request: chosen[workflow, request])
    return fast, slow, result


@pytest.mark.parametrize("decode", [LINE, TABLE], ids=["line", "table"])
@pytest.mark.parametrize("seed", range(8))
def test_roomy_cluster(decode, seed):
    # Joins happen mid-step all the time; in the table contexts of 1..260 tokens cross the knots 40, 90 and 200.
    servers = cluster(2, 3, speed=profile(decode))
    fast, slow, _ = both(servers, random_workload(seed), seed)
    assert fast == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("decode", [LINE, TABLE], ids=["line", "table"])
@pytest.mark.parametrize("seed", range(8))
def test_kv_limit_and_batch_limit(decode, seed):
    # 480 tokens are 30 blocks and a call takes up to 17, so that decode queues form; at most 3 calls run together.
    servers = cluster(2, 2, speed=profile(decode), kv_capacity_tokens=480, max_running=3)
    fast, slow, result = both(servers, random_workload(seed, num_workflows=10), seed)
    assert result.counters.kv_waits > 0
    assert fast == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_slow_network(seed):
    # 100 kB per token at 0.1 GB/s is 1 ms per token: transfers last up to 200 ms and overlap.
    servers = cluster(3, 2, bandwidth_gb_s=0.1)
    fast, slow, result = both(servers, random_workload(seed, num_workflows=10), seed)
    assert result.counters.transfers_contended > 5
    assert fast == pytest.approx(slow, abs=1e-5)
