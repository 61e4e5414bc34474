"""The projection by hand, by invariants, and compiled against interpreted."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_states import IN_FLIGHT, adopt, busy_state, cluster, mixed_cluster, profile, push, ready

from hexsolve.jit import COMPILED
from hexsolve.listplan import held_spans, plan_by_risk, world_of
from hexsolve.profile import DecodeTable
from hexsolve.projection import apply, best_pair, decode_alone, open_timeline, sorted_order, step_ms
from hexsolve.state import ClusterState
from hexsolve.tables import DECODE, ClusterTables


def plan(state, now_ms=0.0):
    return plan_by_risk(state.snapshot(now_ms))


# -- arithmetic: prefill 10 + 0.1·N ms, transfer 2 + 0.1·N ms, decode 10 ms per token unless said otherwise ------------


def test_queueing_prefill_transfer_and_decode_add_up():
    # (100, 50): prefill 20, transfer 12, decode 500. The second one's prefill waits for the first one's: 20 later.
    state = ClusterState(cluster())
    ready(state), ready(state)
    made = plan(state)
    assert made.start_ms.tolist() == pytest.approx([32.0, 52.0])
    assert made.finish_ms.tolist() == pytest.approx([532.0, 552.0])


def test_a_batch_in_progress_delays_the_prefill():
    # Busy until 70, so 70 + 20 + 12 + 500; the projection is made at 30.
    state = ClusterState(cluster())
    ready(state)
    state.prefill_batch(0.0, 0, 70.0)
    assert plan(state, 30.0).finish_ms.tolist() == pytest.approx([602.0])


def test_prefill_and_decode_replica_are_chosen_together():
    # P0 prefills in 20 ms but is busy until 100, P1 needs 60 at once. D0 decodes in 500, D1 in 400 but its link from
    # P1 moves 0.1 GB/s: 2 + 100 instead of 12. P0-D1: 120 + 12 + 400 = 532; P1-D0: 60 + 12 + 500 = 572;
    # P1-D1: 60 + 102 + 400 = 562; P0-D0: 632.
    on = cluster((profile(), profile(prefill=(10.0, 0.5))), (profile(), profile(decode=(8.0, 0.0, 0.0))))
    slow = type(on)(on.name, on.llm, on.prefill, on.decode, 2.0, {("P1", "D1"): 0.1})
    state = ClusterState(slow)
    ready(state)
    state.prefill_batch(0.0, 0, 100.0)
    made = plan(state)
    assert (made.prefill[0], made.decode[0], made.finish_ms[0]) == (0, 1, pytest.approx(532.0))
    state.prefill_batch(0.0, 0, 140.0)  # now P0-D1 ends at 572
    made = plan(state)
    assert (made.prefill[0], made.decode[0], made.finish_ms[0]) == (1, 1, pytest.approx(562.0))


def test_the_part_of_the_prefix_that_a_replica_holds_shortens_its_prefill():
    # 200 tokens, 100 reusable: 30 ms without, 20 with all of it; 50 held tokens save half of the difference.
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    ready(state, workflow=w, tokens=(200, 50), cached_prefix_tokens=100, prefix_group="g")
    for held, prefill_ms in ((0, 30.0), (50, 25.0), (100, 20.0), (5000, 20.0)):
        state.prefix_held(w, "g", 0, held)
        assert plan(state).start_ms[0] == pytest.approx(prefill_ms + 22.0)


def test_decode_waits_until_a_running_call_releases_its_kv():
    # 20 blocks. A running call of (100, 50) holds 10 and ends at 500. A waiting call of (200, 50) needs 16: its KV is
    # there at 30 + 22 = 52, but it starts at 500.
    state = ClusterState(cluster(kv_tokens=320))
    first = ready(state)
    adopt(state, plan(state))
    push(state, first, 0.0, "decode")
    ready(state, tokens=(200, 50))
    made = plan(state)
    assert (made.start_ms[0], made.finish_ms[0]) == (pytest.approx(500.0), pytest.approx(1000.0))


def test_a_later_call_fills_the_gap_that_a_big_one_leaves():
    # As above, and a third call of (50, 5): 4 blocks fit beside the first one's 10 at once.
    state = ClusterState(cluster(kv_tokens=320))
    first = ready(state)
    adopt(state, plan(state))
    push(state, first, 0.0, "decode")
    big, small = ready(state, tokens=(200, 50)), ready(state, tokens=(50, 5))
    made = plan(state)
    start = dict(zip(made.slots.tolist(), made.start_ms.tolist(), strict=True))
    assert start[big] == pytest.approx(500.0)
    assert start[small] < 100.0


def test_decode_waits_for_a_place_in_the_batch():
    # max_running 1: the second decode starts when the first one ends, at 32 + 500.
    state = ClusterState(cluster(max_running=1))
    ready(state), ready(state)
    assert plan(state).start_ms.tolist() == pytest.approx([32.0, 532.0])


def test_a_call_in_flight_keeps_its_place_in_the_batch():
    # In transfer since 20, its KV arrives at 32 and it decodes until 532; nobody else fits meanwhile.
    state = ClusterState(cluster(max_running=1))
    first = ready(state)
    adopt(state, plan(state))
    state.prefill_started(0.0, first, 0)
    state.prefill_done(20.0, first)
    ready(state, 20.0)
    snapshot = state.snapshot(20.0)
    assert held_spans(snapshot)[0].tolist() == pytest.approx([32.0, 532.0])
    assert plan_by_risk(snapshot).start_ms.tolist() == pytest.approx([532.0])


def test_the_step_time_is_that_of_the_batch_a_call_joins():
    # Step 10 + 2·B: the running call was alone at 12 ms; the new one joins it: 14 ms each of 50 steps.
    state = ClusterState(cluster(decode=(profile(decode=(10.0, 2.0, 0.0)),)))
    first = ready(state, tokens=(100, 500))
    adopt(state, plan(state))
    push(state, first, 0.0, "decode")
    ready(state)
    made = plan(state)
    assert made.finish_ms[0] - made.start_ms[0] == pytest.approx(50 * 14.0)


def test_a_running_call_is_believed_to_go_on_at_its_pace():
    # 50 tokens at 10 ms; by 200 ms 20 are done, so it ends at 500; it holds (100 + 50)/16 = 10 blocks.
    state = ClusterState(cluster())
    first = ready(state)
    adopt(state, plan(state))
    push(state, first, 0.0, "decode")
    assert held_spans(state.snapshot(200.0))[0].tolist() == pytest.approx([200.0, 500.0])
    assert held_spans(state.snapshot(900.0))[0].tolist() == pytest.approx([900.0, 910.0])  # overdue: one step more


def test_step_time_is_the_profile_s_for_lines_and_tables_that_start_late():
    # A table whose first knots are batch 2 and context 100 goes on straight to (1, 0), where its floor is.
    table = DecodeTable(
        (2.0, 8.0, 32.0), (100.0, 1000.0, 9000.0), ((5.0, 6.0, 9.0), (6.0, 8.0, 14.0), (9.0, 13.0, 40.0))
    )
    late = profile()
    late = type(late)(**{f: getattr(late, f) for f in late.__dataclass_fields__} | {"decode": table})
    profiles = (profile(decode=(10.0, 0.7, 0.0003)), late)
    tables = ClusterTables.of(cluster(decode=profiles))
    for kind, rate in enumerate(profiles):
        for batch in (1, 2, 3, 8, 31, 64):
            for mean in (0.0, 7.0, 100.0, 950.0, 9000.0, 60_000.0):
                step = step_ms(tables.knots, tables.knot_count, tables.grid, kind, float(batch), mean)
                assert step == pytest.approx(rate.decode_step_ms(batch, batch * mean))


# -- invariants --------------------------------------------------------------------------------------------------------


def timeline_of(snapshot):
    """The timeline after every waiting call was placed at its best, in row order; and the spans of what is held."""
    world = world_of(snapshot)
    held = np.full((len(snapshot.calls), 2), np.nan)
    timeline = open_timeline(world, len(snapshot.waiting), held)
    alone = np.empty(len(snapshot.decodes))
    placed = {}
    for row in snapshot.waiting:
        decode_alone(world, row, alone)
        placed[row] = best_pair(world, timeline, alone, row)
        apply(world, timeline, row, placed[row])
    return timeline, placed, held


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), kv_tokens=st.sampled_from([2_000, 4_000, 40_000]), running=st.sampled_from([3, 256]))
def test_timeline_invariants(seed, kv_tokens, running):
    state = busy_state(seed, mixed_cluster(kv_tokens=kv_tokens, max_running=running))
    snapshot = state.snapshot(state.clock_ms + 1.0)
    bare, _, _ = timeline_of(state_without_waiting(snapshot))
    timeline, placed, held = timeline_of(snapshot)
    for d, replica in enumerate(snapshot.decodes):
        n = timeline.length[d]
        times = timeline.spans["start_ms"][d, :n]
        assert times[0] == snapshot.now_ms
        assert np.all(np.diff(times) >= 0.0)
        # What runs already may exceed a limit (state changed under it); what is placed never does.
        over = max(replica["capacity_blocks"], bare.spans["blocks"][d, 0])
        assert timeline.spans["blocks"][d, :n].max() <= over
        assert timeline.spans["running"][d, :n].max() <= max(replica["max_running"], bare.spans["running"][d, 0])
        assert timeline.spans["blocks"][d, :n].min() >= 0
        assert timeline.spans["running"][d, :n].min() >= 0
        assert timeline.spans["blocks"][d, n - 1] == 0
        assert timeline.spans["running"][d, n - 1] == 0
        assert timeline.peak_blocks[d] >= timeline.spans["blocks"][d, :n].max()
        assert timeline.peak_running[d] >= timeline.spans["running"][d, :n].max()
        assert_blocks_add_up(snapshot, d, timeline, placed, held)
    assert all(call.finish_ms > call.start_ms >= snapshot.now_ms for call in placed.values())


def state_without_waiting(snapshot):
    keep = np.flatnonzero(np.isin(snapshot.calls["stage"], (*IN_FLIGHT, DECODE)))
    fields = ("calls", "prefill_ms")
    return type(snapshot)(
        **{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__ if f not in fields},
        **{f: getattr(snapshot, f)[keep] for f in fields},
    )


def assert_blocks_add_up(snapshot, d, timeline, placed, held):
    """In the middle of each interval: blocks and batch recounted from the spans of all calls on the replica."""
    spans = [(call.start_ms, call.finish_ms, row) for row, call in placed.items() if call.decode == d]
    on_replica = np.flatnonzero((snapshot.calls["decode"] == d) & np.isfinite(held[:, 1]))
    spans += [(held[row, 0], held[row, 1], row) for row in on_replica]
    for x in range(timeline.length[d] - 1):
        start, end = timeline.spans["start_ms"][d, x : x + 2]
        if end - start > 1e-6:
            rows = [row for begin, stop, row in spans if begin <= (start + end) / 2 < stop]
            assert timeline.spans["blocks"][d, x] == snapshot.calls["kv_blocks"][rows].sum()
            assert timeline.spans["running"][d, x] == len(rows)


@given(keys=st.lists(st.integers(-5, 5) | st.just(-(2**62)), max_size=40))
def test_sorted_order_is_a_stable_sort(keys):
    column = np.array(keys, dtype=np.int64)
    assert sorted_order(column).tolist() == np.argsort(column, kind="stable").tolist()


# -- compiled == interpreted -------------------------------------------------------------------------------------------


def digest_of_plans() -> str:
    """Digest of plans of random states: replicas, ranks, and times to the microsecond."""
    digest = hashlib.sha256()
    for seed in range(12):
        state = busy_state(seed, mixed_cluster(kv_tokens=(3_000, 40_000)[seed % 2], max_running=(4, 256)[seed % 2]))
        for limit in (2, 100):
            made = plan_by_risk(state.snapshot(state.clock_ms + 1.0), limit)
            for column in (
                made.prefill,
                made.decode,
                made.rank,
                np.round(made.finish_ms, 3),
                np.round(made.start_ms, 3),
            ):
                digest.update(column.tobytes())
        digest.update(np.round(held_spans(state.snapshot(state.clock_ms)), 3).tobytes())
    return digest.hexdigest()


@pytest.mark.skipif(not COMPILED, reason="this process runs the kernels interpreted")
def test_interpreted_kernels_plan_the_same():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), str(here.parent / "models"), str(here)])
    interpreted = subprocess.run(
        [sys.executable, "-c", "import test_projection; print(test_projection.digest_of_plans())"],
        env=os.environ | {"HEXSOLVE_NO_JIT": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert interpreted.stdout.strip() == digest_of_plans()
