"""What must hold in every run: each call once, stages in order, KV within capacity, the same log from a seed."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twin_engine import FakeEngine
from twin_workloads import TABLE, cluster, profile, random_workload

from hexsolve.sim import Fault, SimOptions, simulate
from hexsolve.sim.decode import DecodeServer

SHAPES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "kv_capacity_tokens": st.sampled_from([272, 400, 100_000]),
        "max_running": st.sampled_from([1, 3, 64]),
        "chunk_tokens": st.sampled_from([None, 1, 30]),
        "pushback": st.sampled_from(["recompute", "reload"]),
        "predictor": st.sampled_from(["oracle", "noisy:0.8", "learned"]),
        "growth_tokens": st.sampled_from([1, 16, 64]),
        "bandwidth_gb_s": st.sampled_from([0.05, 1.0]),
    }
)


def run(shape, faults=(), engine=None):
    servers = cluster(
        2,
        2,
        speed=profile(TABLE),
        kv_capacity_tokens=shape["kv_capacity_tokens"],
        prefill_kv_tokens=300,
        max_running=shape["max_running"],
        bandwidth_gb_s=shape["bandwidth_gb_s"],
    )
    workload = random_workload(shape["seed"], reuse=True)
    options = SimOptions(
        chunk_tokens=shape["chunk_tokens"],
        growth_tokens=shape["growth_tokens"],
        pushback=shape["pushback"],
        faults=tuple(faults),
        record_events=True,
    )
    engine = engine or FakeEngine(servers)
    predictor = shape["predictor"]
    return (
        workload,
        engine,
        simulate(servers, workload, engine, predictor=predictor, options=options, seed=shape["seed"]),
    )


def check(workload, result):
    """Each call done exactly once; stages in order; dependencies and delays kept; counters add up."""
    records = {(record.workflow_id, record.request_id): record for record in result.records()}
    assert result.num_calls == len(records) == workload.num_calls
    for index, workflow in enumerate(workload.workflows):
        done = {}
        for call in workflow.calls:
            record = records[workflow.workflow_id, call.request_id]
            parents_done = max([workflow.arrival_ms, *(done[name] for name in call.dependencies)])
            assert record.ready_ms == pytest.approx(parents_done + call.delay_ms)
            assert record.ready_ms <= record.prefill_start_ms <= record.prefill_end_ms <= record.transfer_end_ms
            assert record.transfer_end_ms <= record.decode_start_ms < record.done_ms
            assert 0 <= record.cached_tokens <= call.cached_prefix_tokens
            done[call.request_id] = record.done_ms
        assert result.finish_ms[index] == max(done.values())
    kinds = Counter(event.kind for event in result.events)
    assert kinds["call_done"] == kinds["call_ready"] == workload.num_calls
    assert kinds["workflow_open"] == kinds["workflow_close"] == len(workload.workflows)
    attempts = sum(record.attempts for record in records.values())
    assert kinds["prefill_started"] == attempts
    assert attempts <= workload.num_calls + kinds["call_requeued"]


@settings(max_examples=60, deadline=None)
@given(SHAPES)
def test_conservation(shape):
    workload, engine, result = run(shape)
    check(workload, result)
    assert engine.state.count["call_done"] == workload.num_calls
    assert max(result.peak_kv_blocks) <= shape["kv_capacity_tokens"] // 16
    if shape["predictor"] == "oracle":
        assert result.counters.growths == result.counters.pushbacks == 0


@settings(max_examples=25, deadline=None)
@given(SHAPES)
def test_kv_is_never_over_capacity_and_all_free_at_the_end(shape):
    # Watch every change of a reservation: free blocks stay >= 0 and equal the capacity minus what the calls there hold.
    servers, original = set(), DecodeServer.dispatch

    def watched(self, now_ms):
        original(self, now_ms)
        servers.add(self)
        held = [*self._running.values(), *self._loading.values(), *self._joiners]
        assert self.free_blocks >= 0
        assert self.free_blocks == self.capacity_blocks - sum(run.blocks for run in held)
        assert len(held) <= self.max_running
        assert len(held) == self._num_admitted
        for run in self._running.values():
            assert run.call.input_tokens + self._step - run.origin <= 16 * run.blocks
        context = sum(run.call.input_tokens + self._step - run.origin for run in self._running.values())
        assert self._context == context

    DecodeServer.dispatch = watched
    try:
        run(shape)
    finally:
        DecodeServer.dispatch = original
    assert all(server.free_blocks == server.capacity_blocks for server in servers)


@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_the_same_run_twice_is_the_same_log(shape):
    faults = [Fault(100.0, "decode", 0, "down"), Fault(180.0, "decode", 0, "up")]
    first, second = run(shape, faults)[2], run(shape, faults)[2]
    assert first.events == second.events
    assert list(first.records()) == list(second.records())
    assert first.counters == second.counters


def test_another_seed_is_another_log():
    shape = {
        "seed": 1,
        "kv_capacity_tokens": 400,
        "max_running": 3,
        "chunk_tokens": None,
        "pushback": "recompute",
        "predictor": "noisy:0.8",
        "growth_tokens": 16,
        "bandwidth_gb_s": 1.0,
    }
    assert run(shape)[2].events != run({**shape, "seed": 2})[2].events


FAULTS = st.lists(
    st.tuples(st.sampled_from(["prefill", "decode"]), st.integers(0, 1), st.floats(0.0, 600.0), st.floats(1.0, 300.0)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(SHAPES, FAULTS)
def test_all_calls_complete_through_faults(shape, outages):
    # Outages may overlap, hit both replicas of a pool at once, or hit a replica that is down already.
    faults = []
    for role, index, start_ms, length_ms in outages:
        faults += [Fault(start_ms, role, index, "down"), Fault(start_ms + length_ms, role, index, "up")]
    for role in ("prefill", "decode"):
        faults += [Fault(5000.0, role, index, "up") for index in range(2)]
    workload, _, result = run(shape, faults)
    check(workload, result)


def test_faults_lose_work_in_every_stage():
    # Over many outages each stage is hit: calls in prefill, in transfer, waiting for decode and in decode.
    shape = {
        "seed": 5,
        "kv_capacity_tokens": 272,
        "max_running": 3,
        "chunk_tokens": None,
        "pushback": "recompute",
        "predictor": "oracle",
        "growth_tokens": 16,
        "bandwidth_gb_s": 0.05,
    }
    hit = Counter()
    for time_ms in range(20, 600, 20):
        for role in ("prefill", "decode"):
            _, _, result = run(shape, [Fault(time_ms, role, 0, "down"), Fault(time_ms + 10, role, 0, "up")])
            stage = {}
            for event in result.events:
                if event.kind == "call_requeued":
                    hit[role, stage[event.workflow, event.call]] += 1
                stage[event.workflow, event.call] = event.kind
    assert {kind for role, kind in hit if role == "prefill"} == {"prefill_started", "prefill_done"}
    assert {kind for role, kind in hit if role == "decode"} == {
        "prefill_started",
        "prefill_done",
        "transfer_done",
        "decode_started",
    }
