"""Utilisation: capacities worked out by hand, the linear programme against bounds, and what can never hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hexsolve.arrivals import AllAtOnce
from hexsolve.catalog import load_cluster
from hexsolve.cluster import Cluster, Replica
from hexsolve.errors import InputError
from hexsolve.generate import generate
from hexsolve.load import (
    busy_ms_per_call,
    decode_cost_ms,
    least_busy_ms,
    prefill_cost_ms,
    rate_for,
    utilisation,
)
from hexsolve.profile import DecodeLine, PrefillLine, Profile
from hexsolve.workflow import Call, Workflow, Workload


def replica(name: str, role: str, speed: float = 1.0, kv: int = 16_000, **more: int) -> Replica:
    """Prefill: 4 ms + 0.1 ms a token + 1e-6 ms of area; decode step: 10 ms + 1 ms a call + 0.001 ms a context token."""
    profile = Profile(
        "llm", f"gpu{speed}", 1, "vllm", PrefillLine(4.0, 0.1, 1e-6), DecodeLine(10.0, 1.0, 0.001), 1000,
        kappa_prefill=1 / speed, kappa_decode=1 / speed,
    )  # fmt: skip
    return Replica(name, role, profile.gpu, 1, profile, kv, 10.0, **more)  # type: ignore[arg-type]


def cluster(prefill: tuple[Replica, ...], decode: tuple[Replica, ...]) -> Cluster:
    return Cluster("c", "llm", prefill, decode)


def workload(*calls: Call) -> Workload:
    return Workload("w", (Workflow("w", "c", 0.0, calls),))


def test_prefill_shares_a_full_batch() -> None:
    # Budget 2048 holds two prompts of 1000: (4 + 0.1 * 2000 + 1e-6 * 2e6) / 2 = (4 + 200 + 2)/2 = 103 ms each.
    assert prefill_cost_ms(Call("a", 1000, 1), replica("p", "prefill")) == pytest.approx(103.0)
    # 600 of the 1000 are reused: 5 calls of 400 new tokens, area 400 * (400 + 1200) = 640,000 each.
    cached = Call("a", 1000, 1, cached_prefix_tokens=600)
    assert prefill_cost_ms(cached, replica("p", "prefill")) == pytest.approx((4 + 200 + 3.2) / 5)
    # A prompt above the budget goes alone: 4 + 500 + 25.
    assert prefill_cost_ms(Call("a", 5000, 1), replica("p", "prefill")) == pytest.approx(529.0)


def test_decode_runs_the_largest_batch_its_kv_allows() -> None:
    # 16,000 KV tokens hold 10 calls of 1500 + 100; step 10 + 10 + 0.001 * 10 * 1550 = 35.5 ms; 100 steps / 10 calls.
    assert decode_cost_ms(Call("a", 1500, 100), replica("d", "decode")) == pytest.approx(355.0)
    # With at most 4 running: step 10 + 4 + 0.001 * 4 * 1550 = 20.2 ms; 100 steps / 4 calls.
    assert decode_cost_ms(Call("a", 1500, 100), replica("d", "decode", max_running=4)) == pytest.approx(505.0)
    assert decode_cost_ms(Call("a", 16_000, 1), replica("d", "decode")) == float("inf")


def test_one_class_of_calls_gives_the_harmonic_sum() -> None:
    # Replicas of 103 and 51.5 ms per call serve 1/103 + 1/51.5 calls per ms together: 34.33 ms per call.
    pool = (replica("slow", "prefill"), replica("fast", "prefill", speed=2.0))
    assert busy_ms_per_call([Call("a", 1000, 1)], pool, prefill_cost_ms) == pytest.approx(103 / 3)


def test_specialists_beat_the_harmonic_sum() -> None:
    # Half the calls take 1 ms on A and 9 on B, half the reverse. Each to its own: 0.5 ms per call. Blind splitting by
    # mean cost (5 ms on either) would say 2.5.
    cost_ms = np.array([[1.0, 9.0], [9.0, 1.0]])
    assert least_busy_ms(np.array([0.5, 0.5]), cost_ms, np.ones(2)) == pytest.approx(0.5)


def test_a_class_that_runs_on_one_type_only() -> None:
    # Class 0 must go to A (0.5 * 4 = 2 ms); class 1 then best goes to B (0.5 * 2 = 1 ms): A binds with 2.
    cost_ms = np.array([[4.0, np.inf], [2.0, 2.0]])
    assert least_busy_ms(np.array([0.5, 0.5]), cost_ms, np.ones(2)) == pytest.approx(2.0)


costs = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 4)), elements=st.floats(0.01, 1e5))


@given(costs, st.data())
def test_programme_lies_between_its_bounds(cost_ms: np.ndarray, data: st.DataObject) -> None:
    num_classes, num_types = cost_ms.shape
    counts = np.array(data.draw(st.lists(st.integers(1, 5), min_size=num_types, max_size=num_types)), dtype=float)
    weights = np.full(num_classes, 1 / num_classes)
    least = least_busy_ms(weights, cost_ms, counts)
    # Never better than every call on its fastest type with all replicas sharing; never worse than one type alone.
    assert least >= cost_ms.min(axis=1).mean() / counts.sum() * (1 - 1e-6)
    assert least <= (cost_ms.mean(axis=0) / counts).min() * (1 + 1e-6)
    # One split for all calls, speeds by mean cost, is one feasible answer: the harmonic sum.
    assert least <= 1 / (counts / cost_ms.mean(axis=0)).sum() * (1 + 1e-6)
    assert least_busy_ms(weights, cost_ms, counts + 1) <= least * (1 + 1e-6)


def test_utilisation_by_hand_and_its_binding_pool() -> None:
    # One workflow of two calls: prefill 103 ms a call on one replica, decode 355 ms a call on two.
    # At 1 workflow/s: prefill 0.206, decode 2 * 355 / 1000 / 2 = 0.355.
    calls = (Call("a", 1500, 100), Call("b", 1500, 100, ("a",)))
    pool = cluster((replica("p", "prefill"),), (replica("d", "decode"), replica("e", "decode")))
    load = utilisation(workload(*calls), pool, 1.0)
    assert load.prefill == pytest.approx(2 * (4 + 150 + 2.25) / 1000)
    assert load.decode == pytest.approx(0.355)
    assert (load.binding, load.rho) == ("decode", load.decode)
    assert rate_for(workload(*calls), pool, 0.71) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["bfcl", "coding", "text2sql"])
def test_rate_for_meets_its_target_on_a_packaged_cluster(name: str) -> None:
    flows, pool = generate(name, 60, 1, AllAtOnce()), load_cluster("hetero-1-llama-70b")
    for rho in (0.5, 1.2):
        assert utilisation(flows, pool, rate_for(flows, pool, rho)).rho == pytest.approx(rho)


def test_faster_replicas_are_less_loaded() -> None:
    flows, pool = generate("text2sql", 40, 1, AllAtOnce()), load_cluster("hetero-1-llama-70b")
    base, faster = utilisation(flows, pool, 1.0), utilisation(flows, pool.scaled({"H100": 1.25}), 1.0)
    assert base.prefill * 0.8 < faster.prefill < base.prefill
    assert base.decode * 0.8 < faster.decode < base.decode


def test_classes_lose_little() -> None:
    # Calls are put into 24 classes of like cost; the exact programme has a row for each call.
    calls = [call for flow in generate("text2sql", 8, 1, AllAtOnce()).workflows for call in flow.calls]
    replicas = load_cluster("hetero-1-llama-70b").prefill
    cost_ms = np.array([[prefill_cost_ms(call, r) for r in replicas] for call in calls])
    exact = least_busy_ms(np.full(len(calls), 1 / len(calls)), cost_ms, np.ones(len(replicas)))
    assert busy_ms_per_call(calls, replicas, prefill_cost_ms) == pytest.approx(exact, rel=0.01)


def test_a_call_too_large_for_some_replicas_uses_the_others() -> None:
    pool = (replica("small", "decode", kv=1600), replica("large", "decode", kv=160_000))
    short, long = Call("a", 100, 10), Call("b", 10_000, 10)
    alone = busy_ms_per_call([long], pool, decode_cost_ms)
    assert alone == pytest.approx(decode_cost_ms(long, pool[1]))
    assert busy_ms_per_call([short, long], pool, decode_cost_ms) < alone


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_rates_and_targets_are_refused(rate: float) -> None:
    pool = cluster((replica("p", "prefill"),), (replica("d", "decode"),))
    with pytest.raises(InputError, match="rate_per_s: expected a finite number > 0"):
        utilisation(workload(Call("a", 1, 1)), pool, rate)
    with pytest.raises(InputError, match="rho: expected a finite number > 0"):
        rate_for(workload(Call("a", 1, 1)), pool, rate)


def test_what_cannot_be_served_is_named() -> None:
    pool = cluster((replica("p", "prefill"),), (replica("d", "decode"),))
    with pytest.raises(InputError, match="call 'big': expected a KV demand that fits a replica, got 16001 tokens"):
        utilisation(workload(Call("a", 1, 1), Call("big", 16_000, 1)), pool, 1.0)
    with pytest.raises(InputError, match="expected at least one workflow"):
        utilisation(Workload("none", ()), pool, 1.0)
