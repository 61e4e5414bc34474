"""Queueing theory through the real servers: Poisson arrivals against the textbook means."""

import numpy as np
import pytest
from twin_engine import FakeEngine
from twin_workloads import cluster, one_call_each, profile

from hexsolve.profile import DecodeLine, PrefillLine
from hexsolve.sim import simulate

# Prefill 0.1 ms per token and nothing else; one call per batch (budget 1). Decode and transfer take next to nothing.
QUICK_DECODE = DecodeLine(1e-6, 0.0, 0.0)
PREFILL_ONLY = profile(QUICK_DECODE, PrefillLine(0.0, 0.1, 0.0), kv_bytes_per_token=1, ttft_overhead_ms=0.0)


def poisson_ms(rng, count, per_ms):
    return np.cumsum(rng.exponential(1.0 / per_ms, count)).tolist()


def within_batch_means(values, expected, num_batches=25, widths=4.0):
    """Whether `expected` is within `widths` standard errors of the mean; successive values depend on each other, so
    the error is taken from means of long stretches."""
    means = [part.mean() for part in np.array_split(np.asarray(values), num_batches)]
    error = np.std(means, ddof=1) / np.sqrt(num_batches)
    assert error < 0.1 * expected, "too few calls to tell"
    return abs(np.mean(means) - expected) < widths * error


def prefill_waits_ms(lengths, rho, seed):
    rng = np.random.default_rng(seed)
    servers = cluster(speed=PREFILL_ONLY, max_batch_tokens=1, link_latency_ms=0.0)
    arrivals = poisson_ms(rng, len(lengths), rho / (0.1 * np.mean(lengths)))
    result = simulate(servers, one_call_each(arrivals, lengths), FakeEngine(servers))
    return [record.prefill_start_ms - record.ready_ms for record in result.records()], result


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_m_d_1_wait(rho):
    # Service s = 10 ms always: mean wait = rho·s/(2(1 - rho)) (Pollaczek-Khinchine with no variance).
    waits_ms, result = prefill_waits_ms([100] * 12_000, rho, seed=1)
    assert result.prefill_busy_ms[0] / result.end_ms == pytest.approx(rho, rel=0.05)
    assert within_batch_means(waits_ms, rho * 10.0 / (2.0 * (1.0 - rho)))


@pytest.mark.parametrize("rho", [0.5, 0.7])
def test_m_m_1_wait(rho):
    # Exponential service of mean 10 ms: mean wait = rho·s/(1 - rho). 10000 steps to the mean make rounding harmless.
    lengths = np.maximum(1, np.round(np.random.default_rng(2).exponential(10_000, 12_000))).astype(int).tolist()
    rng = np.random.default_rng(3)
    speed = profile(QUICK_DECODE, PrefillLine(0.0, 0.001, 0.0), kv_bytes_per_token=1, ttft_overhead_ms=0.0)
    servers = cluster(speed=speed, max_batch_tokens=1, link_latency_ms=0.0, kv_capacity_tokens=10**8)
    result = simulate(servers, one_call_each(poisson_ms(rng, 12_000, rho / 10.0), lengths), FakeEngine(servers))
    waits_ms = [record.prefill_start_ms - record.ready_ms for record in result.records()]
    assert within_batch_means(waits_ms, rho * 10.0 / (1.0 - rho))


@pytest.mark.parametrize("law", ["fixed", "exponential"])
def test_decode_is_processor_sharing(law):
    # A step with B calls takes 0.01·B ms: every call gets 1/B of a server that makes 100 tokens per ms. Mean sojourn in
    # M/G/1 processor sharing is s/(1 - rho) for every law of lengths with mean s (insensitivity): 10/(1 - 0.6) = 25 ms.
    rng = np.random.default_rng(4)
    tokens = [1000] * 12_000 if law == "fixed" else np.maximum(1, np.round(rng.exponential(1000, 12_000))).astype(int)
    speed = profile(DecodeLine(0.0, 0.01, 0.0), PrefillLine(0.0, 1e-9, 0.0), kv_bytes_per_token=1, ttft_overhead_ms=0.0)
    servers = cluster(speed=speed, link_latency_ms=0.0, kv_capacity_tokens=10**8, max_running=10**6)
    workload = one_call_each(poisson_ms(rng, 12_000, 0.6 / 10.0), [1] * 12_000, [int(count) for count in tokens])
    result = simulate(servers, workload, FakeEngine(servers))
    sojourns_ms = [record.done_ms - record.transfer_end_ms for record in result.records()]
    assert result.decode_busy_ms[0] / result.end_ms == pytest.approx(0.6, rel=0.05)
    assert within_batch_means(sojourns_ms, 25.0)
