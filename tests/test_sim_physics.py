"""What happens to a few calls, with the arithmetic in comments."""

from dataclasses import replace

import pytest
from twin_engine import FakeEngine
from twin_workloads import cluster, one_call_each, profile

from hexsolve.errors import InputError
from hexsolve.profile import DecodeLine, PrefillLine
from hexsolve.sim import SimOptions, SimulationError, simulate, standalone_makespans
from hexsolve.workflow import Call, Workflow, Workload

# Prefill 1 ms per token, decode steps of 10 ms, 1 MB of KV per token (1 GB/s moves a token per ms), no overheads.
PLAIN = profile(
    DecodeLine(10.0, 0.0, 0.0), PrefillLine(0.0, 1.0, 0.0), kv_bytes_per_token=1_000_000, ttft_overhead_ms=0.0
)


def plain_cluster(*counts, **changes):
    return cluster(*counts, speed=PLAIN, link_latency_ms=0.0, **changes)


def run(servers, workload, place=None, **changes):
    result = simulate(servers, workload, FakeEngine(servers, place), **changes)
    return {record.workflow_id: record for record in result.records()}, result


def spread(_serial, workflow, _request):
    """Workflow w3 goes to prefill replica 3; all decode on replica 0."""
    number = int(workflow[1:])
    return number, 0, number


def test_one_call_from_reveal_to_done():
    # Prefill 100 tokens: 100 ms. Transfer 100 MB at 1 GB/s: 100 ms. Decode 3 steps: 30 ms.
    records, result = run(plain_cluster(), one_call_each([5.0], [100], 3))
    record = records["w0"]
    assert record.prefill_start_ms == 5.0
    assert record.prefill_end_ms == 105.0
    assert record.transfer_end_ms == 205.0
    assert record.done_ms == 235.0
    assert result.response_ms.tolist() == [230.0]


def test_latency_follows_the_transfer():
    # The same with 2 ms of link latency and 3 ms of overhead on the way to the first token.
    speed = profile(PLAIN.decode, PLAIN.prefill, kv_bytes_per_token=1_000_000, ttft_overhead_ms=3.0)
    records, _ = run(cluster(speed=speed, link_latency_ms=2.0), one_call_each([0.0], [100], 3))
    assert records["w0"].transfer_end_ms == 205.0


def test_two_flows_into_one_card_take_twice_as_long():
    # Both prefills end at 100 ms; 2 × 100 MB share the decode card's 1 GB/s: 0.5 GB/s each, so 200 ms instead of 100.
    records, result = run(plain_cluster(2, 1), one_call_each([0.0, 0.0], [100, 100]), spread)
    assert [records[w].transfer_end_ms for w in ("w0", "w1")] == [300.0, 300.0]
    assert result.counters.transfers_contended == 2


def test_a_flow_speeds_up_when_another_ends():
    # Prefills end at 100 and 160 ms. w0 alone moves 60 MB by 160; then both at 0.5 GB/s: w0's last 40 MB take 80 ms
    # (240). w1 has moved 40 of its 160 MB by then, the other 120 at full speed: 360.
    records, _ = run(plain_cluster(2, 1), one_call_each([0.0, 0.0], [100, 160]), spread)
    assert records["w0"].transfer_end_ms == pytest.approx(240.0)
    assert records["w1"].transfer_end_ms == pytest.approx(360.0)


def test_a_capped_link_is_shared_too():
    # Link p0-d0 carries 0.25 GB/s: 100 MB take 400 ms; a second flow on the link, started at 200, halves that:
    # w0 has 75 MB left at 200 ms and gets 0.125 GB/s.
    servers = plain_cluster(links={("p0", "d0"): 0.25}, max_batch_tokens=1)
    records, _ = run(servers, one_call_each([0.0, 0.0], [100, 100]))
    # w0: 100 → 200: 25 MB; then 75 MB at 0.125 GB/s = 600 ms → 800. w1: 75 MB by 800, 25 MB at 0.25 GB/s → 900.
    assert records["w0"].transfer_end_ms == pytest.approx(800.0)
    assert records["w1"].transfer_end_ms == pytest.approx(900.0)


def test_batches_take_calls_in_rank_order_without_overtaking():
    # Budget 100: 60 + 60 does not fit, and the 40 behind may not overtake: batches [60], [60 + 40].
    servers = plain_cluster(max_batch_tokens=100)
    records, result = run(servers, one_call_each([0.0, 0.0, 0.0], [60, 60, 40]))
    assert [records[f"w{i}"].prefill_end_ms for i in range(3)] == [60.0, 160.0, 160.0]
    assert result.counters.prefill_batches == 2
    assert result.counters.prefill_waits == 2


def test_rank_decides_not_arrival():
    servers = plain_cluster(max_batch_tokens=100)
    records, _ = run(
        servers, one_call_each([0.0, 0.0], [100, 100]), lambda _s, workflow, _r: (0, 0, -int(workflow[1:]))
    )
    assert [records[f"w{i}"].prefill_end_ms for i in range(2)] == [200.0, 100.0]


def test_a_prompt_larger_than_the_budget_runs_alone():
    servers = plain_cluster(max_batch_tokens=100)
    records, _ = run(servers, one_call_each([0.0, 0.0], [250, 10]))
    assert [records[f"w{i}"].prefill_end_ms for i in range(2)] == [250.0, 260.0]


def test_chunks_let_a_short_prompt_through():
    # Chunks of 60 in batches of 100: [w0 60 + w1 10] ends at 70, [w0 60] at 130, [w0 30] at 160.
    servers = plain_cluster(max_batch_tokens=100)
    records, result = run(servers, one_call_each([0.0, 0.0], [150, 10]), options=SimOptions(chunk_tokens=60))
    assert records["w1"].prefill_end_ms == 70.0
    assert records["w0"].prefill_end_ms == 160.0
    assert result.counters.prefill_batches == 3


def test_chunks_cost_the_same_attention_area():
    # c·A alone: 90² = 30² + (60² - 30²) + (90² - 60²), so three chunks take as long as one piece.
    speed = profile(PLAIN.decode, PrefillLine(0.0, 0.0, 0.01), kv_bytes_per_token=1)
    for chunk_tokens in (None, 30):
        records, _ = run(
            cluster(speed=speed), one_call_each([0.0], [90]), options=SimOptions(chunk_tokens=chunk_tokens)
        )
        assert records["w0"].prefill_end_ms == pytest.approx(81.0)


def test_joins_wait_for_the_step_boundary():
    # w0 decodes from 2 ms (prefill 1, transfer 1) in steps of 10; w1 arrives with KV at 27: joins at 32, two steps: 52.
    records, _ = run(plain_cluster(), one_call_each([0.0, 25.0], [1, 1], [9, 2]))
    assert records["w1"].transfer_end_ms == 27.0
    assert records["w1"].decode_start_ms == 32.0
    assert records["w1"].done_ms == 52.0
    assert records["w0"].done_ms == 92.0


def test_kv_admission_is_strict():
    # 4 blocks of 16. w0 (30 + 10 tokens: 3 blocks) decodes from 70 to 170. w1 (20 + 12: 2 blocks) waits from 80 on;
    # w2 (1 + 10: 1 block) has its KV there at 82, would fit beside w0, and waits behind w1 all the same.
    servers = plain_cluster(3, 1, kv_capacity_tokens=64)
    records, result = run(servers, one_call_each([0.0, 30.0, 80.0], [30, 20, 1], [10, 12, 10]), spread)
    assert [records[w].transfer_end_ms for w in ("w0", "w1", "w2")] == pytest.approx([70.0, 80.0, 82.0])
    assert [records[w].decode_start_ms for w in ("w0", "w1", "w2")] == pytest.approx([70.0, 170.0, 170.0])
    assert result.counters.kv_waits == 1
    assert result.peak_kv_blocks.tolist() == [3]


def prefix_chain(length=3):
    """Calls of 100, 200, 300 .. tokens, each with the one before as its prefix, one after the other."""
    calls = tuple(
        Call(f"c{i}", 100 * (i + 1), 1, (f"c{i - 1}",) if i else (), cached_prefix_tokens=100 * i, prefix_group="g")
        for i in range(length)
    )
    return Workload("chain", (Workflow("w", "chain", 0.0, calls),))


def test_prefix_hits_save_tokens_only_where_the_prefix_is():
    # On one replica each call computes 100 new tokens; in turn over two replicas c1 finds nothing at p1 and c2 finds
    # the 100 tokens of c0 at p0, not the 200 it could share with c1.
    one, two = plain_cluster(1), plain_cluster(2)
    assert [r.cached_tokens for r in simulate(one, prefix_chain(), FakeEngine(one)).records()] == [0, 100, 200]
    assert [r.cached_tokens for r in simulate(two, prefix_chain(), FakeEngine(two)).records()] == [0, 0, 100]
    off = simulate(one, prefix_chain(), FakeEngine(one), prefix_reuse=False)
    assert [r.cached_tokens for r in off.records()] == [0, 0, 0]


def test_prefix_eviction_is_reported():
    # A cache of 150 tokens holds c0's 100, then up to 150 of c1's 200; another group pushes the first out.
    calls = (
        Call("a0", 100, 1, prefix_group="a"),
        Call("b0", 100, 1, ("a0",), prefix_group="b"),
        Call("a1", 120, 1, ("b0",), cached_prefix_tokens=100, prefix_group="a"),
    )
    servers = plain_cluster(prefill_kv_tokens=150)
    engine = FakeEngine(servers)
    result = simulate(servers, Workload("ab", (Workflow("w", "", 0.0, calls),)), engine)
    assert [record.cached_tokens for record in result.records()] == [0, 0, 0]
    assert result.counters.prefix_evictions == 2
    assert engine.state.held == {(0, "a", 0): 120, (0, "b", 0): 0}


def test_tools_delay_the_reveal():
    # c0 is revealed 7 ms after arrival, done at 7 + 1 + 1 + 10 = 19; c1 5 ms later.
    calls = (Call("c0", 1, 1, delay_ms=7.0), Call("c1", 1, 1, ("c0",), delay_ms=5.0))
    result = simulate(plain_cluster(), Workload("tools", (Workflow("w", "", 0.0, calls),)), FakeEngine(plain_cluster()))
    assert [record.ready_ms for record in result.records()] == [7.0, 24.0]


class Short:
    """Predicts too little and refines by one token only: reservations grow by the least growth."""

    def __init__(self, tokens):
        self.tokens = tokens

    def predict(self, view):
        return self.tokens

    def observe(self, view, output_tokens):
        pass

    def refine(self, view, generated):
        return generated + 1


def test_growth_in_steps_of_growth_tokens():
    # Predicted 10, true 100, growth 20: grows at 10, 30, 50, 70, 90 generated tokens.
    result = simulate(
        plain_cluster(),
        one_call_each([0.0], [1], 100),
        FakeEngine(plain_cluster()),
        predictor=Short(10),
        options=SimOptions(growth_tokens=20),
    )
    assert result.counters.growths == 5
    assert result.counters.pushbacks == 0


def contest(pushback, bandwidth=1.0):
    """Two calls of 16 + 48 tokens on 6 blocks, predicted 16: the one with the larger rank must give way."""
    servers = plain_cluster(2, 1, kv_capacity_tokens=96)
    options = SimOptions(growth_tokens=16, pushback=pushback, host_bandwidth_gb_s=bandwidth)
    records, result = run(
        servers, one_call_each([0.0, 0.0], [16, 16], 48), spread, predictor=Short(16), options=options
    )
    return records, result


def test_pushback_recomputes():
    # Both KV transfers share the card and end at 16 + 32 = 48 ms; both reserve 2 of 6 blocks. After 16 steps (208 ms)
    # both grow to 3: all 6 taken. After 32 steps (368 ms) w0 needs a 4th block: w1 is pushed back with 32 tokens.
    # w0 goes on alone and is done at 528. w1 prefills 48 tokens: 416, moves them: 464; needs 64 + 16 over 6 - 4 = 2
    # blocks, so it waits for w0: joins at 528 and decodes its last 16 tokens: 688.
    records, result = contest("recompute")
    assert result.counters.pushbacks == 1
    assert (records["w0"].pushbacks, records["w1"].pushbacks) == (0, 1)
    assert records["w0"].done_ms == pytest.approx(528.0)
    assert records["w1"].prefill_end_ms == pytest.approx(416.0)
    assert records["w1"].transfer_end_ms == pytest.approx(464.0)
    assert records["w1"].done_ms == pytest.approx(688.0)


def test_pushback_reloads():
    # As above, but w1 waits on the spot, is admitted at 528 and pays 48 tokens × 1 MB at 1 GB/s = 48 ms: joins at 576.
    records, result = contest("reload")
    assert result.counters.pushbacks == 1
    assert records["w1"].attempts == 1
    assert records["w1"].decode_start_ms == pytest.approx(576.0)
    assert records["w1"].done_ms == pytest.approx(736.0)


def test_a_call_that_outgrows_its_replica_moves_on():
    # 4 blocks hold 64 tokens; 16 + 100 needs 8. The engine sends it to d0 (64 tokens) first, later to d1 (1600).
    small, large = plain_cluster(1, 1, kv_capacity_tokens=64), plain_cluster(1, 1, kv_capacity_tokens=1600)
    servers = replace(small, decode=(small.decode[0], replace(large.decode[0], name="d1")))
    engine = FakeEngine(servers, lambda serial, _w, _r: (0, 0, serial))

    class MovesOn(type(engine.state)):
        def call_requeued(self, now_ms, slot, generated_tokens):
            super().call_requeued(now_ms, slot, generated_tokens)
            self.wanted[slot] = (0, 1, 0)

    engine.state.__class__ = MovesOn
    result = simulate(servers, one_call_each([0.0], [16], 100), engine, predictor=Short(16))
    (record,) = result.records()
    assert (record.decode, record.pushbacks, record.attempts) == (1, 1, 2)


def test_too_large_a_call_is_refused_at_the_door():
    servers = plain_cluster(kv_capacity_tokens=160)
    with pytest.raises(InputError, match=r"workflow 'w0': call 'c': .* at most 160 .* got 161"):
        simulate(servers, one_call_each([0.0], [100], 61), FakeEngine(servers))


def test_a_call_nobody_places_is_named():
    servers = plain_cluster()
    engine = FakeEngine(servers, lambda _s, workflow, _r: (0, 0, 0))
    engine.decide = lambda _now_ms: []
    with pytest.raises(
        SimulationError, match=r"2 calls are unfinished: call 'c' of workflow 'w0' waits for prefill and"
    ):
        simulate(servers, one_call_each([0.0, 1.0], [10, 10]), engine)


def test_an_engine_that_only_wakes_up_is_stopped():
    servers = plain_cluster()
    engine, wake_ups = FakeEngine(servers), iter(range(1, 10**6))
    engine.decide = lambda _now_ms: []
    engine.next_wakeup_ms = lambda: float(next(wake_ups))
    with pytest.raises(SimulationError, match="1000 wake-ups"):
        simulate(servers, one_call_each([0.0], [10]), engine)


def test_a_periodic_engine_decides_at_its_wake_ups():
    # Decisions at 0, 50, 100 .. only: a call revealed at 20 starts at 50.
    servers = plain_cluster()
    engine = FakeEngine(servers)
    engine.needs_decision = lambda _kind: False
    now = [0.0]
    decide = engine.decide

    def noting(now_ms):
        now[0] = now_ms
        return decide(now_ms)

    engine.decide = noting
    engine.next_wakeup_ms = lambda: (now[0] // 50.0 + 1) * 50.0
    result = simulate(servers, one_call_each([20.0], [10]), engine)
    records = {record.workflow_id: record for record in result.records()}
    assert records["w0"].prefill_start_ms == 50.0


def test_standalone_makespans_run_equal_workflows_once():
    # Three workflows, two of them equal but for names and arrival. 10 tokens: 10 + 10 + 10 ms; 20: 20 + 20 + 10.
    servers, made = plain_cluster(), []

    def factory(servers):
        made.append(servers)
        return FakeEngine(servers)

    makespans = standalone_makespans(servers, one_call_each([3.0, 4.0, 5.0], [10, 20, 10]), factory)
    assert makespans.tolist() == [30.0, 50.0, 30.0]
    assert len(made) == 2


def test_an_empty_workload_ends_at_once():
    servers = plain_cluster()
    result = simulate(servers, Workload("none", ()), FakeEngine(servers))
    assert result.num_calls == 0
    assert result.end_ms == 0.0


def test_work_per_call_does_not_grow_with_the_workload():
    # The same traffic for ten times as long: events and decode jumps per call stay the same.
    def per_call(num_calls):
        servers = plain_cluster(2, 2)
        workload = one_call_each([25.0 * i for i in range(num_calls)], [10 + i % 7 for i in range(num_calls)], 5)
        counters = simulate(servers, workload, FakeEngine(servers)).counters
        return counters.events / num_calls, counters.decode_segments / num_calls

    assert per_call(2000) == pytest.approx(per_call(200), rel=0.02)
    assert per_call(2000)[0] < 8.0


def test_a_prefix_hit_saves_its_part_of_the_area():
    # c·A alone with c = 0.01: c0 takes 0.01·100² = 100 ms, c1 0.01·(200² - 100²) = 300 ms instead of 400.
    speed = profile(PLAIN.decode, PrefillLine(0.0, 0.0, 0.01), kv_bytes_per_token=1)
    servers = cluster(speed=speed)
    records = list(simulate(servers, prefix_chain(2), FakeEngine(servers)).records())
    assert [r.prefill_end_ms - r.prefill_start_ms for r in records] == pytest.approx([100.0, 300.0])


def test_a_waiting_call_follows_a_new_plan_and_may_lose_its_place():
    # w0 keeps p0 busy until 100. w1 waits there; at 10 the engine takes its placement away, at 20 it sends it to p1.
    servers = plain_cluster(2, 1)
    engine = FakeEngine(servers, lambda _serial, _workflow, _request: (0, 0, 0))
    plans, place = {10.0: -1, 20.0: 1}, engine.decide

    def decide(now_ms):
        if now_ms not in plans:
            return place(now_ms)
        engine.state.prefill[1] = plans.pop(now_ms)
        return [1]

    engine.decide = decide
    engine.next_wakeup_ms = lambda: min(plans, default=float("inf"))
    result = simulate(servers, one_call_each([0.0, 1.0], [100, 100]), engine)
    records = {record.workflow_id: record for record in result.records()}
    assert (records["w1"].prefill, records["w1"].prefill_start_ms) == (1, 20.0)
    assert result.counters.moves == 1
