"""The state under valid and nonsensical events: it never raises, counts what cannot be true, and its sums are right."""

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_states import adopt, busy_state, cluster, mixed_cluster, profile, push, ready

from hexsolve.cluster import BLOCK_TOKENS
from hexsolve.errors import InputError
from hexsolve.listplan import plan_by_risk
from hexsolve.state import MAX_CLOCK_MS, ClusterState
from hexsolve.tables import DECODE, EMPTY, PREFILL, TRANSFER, WAIT_DECODE, WAIT_PREFILL

SLOTS = st.integers(-2, 40) | st.sampled_from([10**6, -(10**9)])
TIMES = st.floats(-50.0, 200.0) | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300])
TOKENS = st.integers(-5, 3000) | st.sampled_from([0, 2**31 - 1, 2**62])
REPLICAS = st.integers(-2, 4)
ROLES = st.sampled_from(["prefill", "decode", "decode", "nonsense"])


class Events(RuleBasedStateMachine):
    """Rules send events of any content in any order; `serve` keeps calls moving so that later stages occur."""

    @initialize(kv_tokens=st.sampled_from([2_000, 20_000]))
    def start(self, kv_tokens):
        self.state = ClusterState(mixed_cluster(kv_tokens=kv_tokens))
        self.now_ms = 0.0
        self.workflows = [self.state.workflow_open(0.0, "w0")]
        self.serials = {}  # serial -> (workflow, request_id): who ever had it
        self.names = 0

    def time(self, dt):
        self.now_ms = max(self.now_ms, self.now_ms + dt) if math.isfinite(dt) and abs(dt) < 1e6 else self.now_ms
        return self.now_ms + min(dt, 0.0) if math.isfinite(dt) else dt

    @rule(dt=TIMES, arrival=st.none() | TIMES)
    def workflow_open(self, dt, arrival):
        self.workflows.append(self.state.workflow_open(self.time(dt), f"w{len(self.workflows)}", arrival_ms=arrival))

    @rule(dt=TIMES, which=st.integers(0, 30), input_tokens=TOKENS, predicted=TOKENS, cached=TOKENS, known=st.booleans())
    def call_ready(self, dt, which, input_tokens, predicted, cached, known):
        self.names += known
        slot = self.state.call_ready(
            self.time(dt),
            self.workflows[which % len(self.workflows)],
            f"c{self.names}",
            input_tokens=input_tokens,
            predicted_output_tokens=predicted,
            cached_prefix_tokens=cached,
            prefix_group="g" * (which % 3),
            dependencies=(f"c{self.names - 1}",) if which % 2 else (),
        )
        if slot >= 0:
            serial = int(self.state.serial[slot])
            assert serial not in self.serials
            self.serials[serial] = self.state.name(slot)

    @rule(count=st.integers(1, 4), predicted=st.integers(10, 80))
    def reveal_good_calls(self, count, predicted):
        live = [i for i, w in enumerate(self.workflows) if w in self.state.workflows]
        for i in live[-count:]:
            self.call_ready(1.0, i, 200, predicted, 20, True)

    @rule(dt=TIMES)
    def plan(self, dt):
        adopt(self.state, plan_by_risk(self.state.snapshot(self.time(dt))))

    @precondition(lambda self: (self.state.stage > EMPTY).any())
    @rule(picks=st.lists(st.integers(0, 99), min_size=1, max_size=4), dt=st.floats(0.0, 50.0), times=st.integers(1, 6))
    def serve(self, picks, dt, times):
        """Move a few calls on by up to `times` stages, as a cluster would."""
        self.plan(0.0)
        for slot in (int(live[pick % len(live)]) for pick in picks if len(live := np.flatnonzero(self.state.stage))):
            for _ in range(times):
                now_ms, stage = self.time(dt), self.state.stage[slot]
                if stage == WAIT_PREFILL:
                    self.state.prefill_started(now_ms, slot, int(self.state.prefill[slot]))
                elif stage in (PREFILL, TRANSFER):
                    (self.state.prefill_done if stage == PREFILL else self.state.transfer_done)(now_ms, slot)
                elif stage == WAIT_DECODE:
                    self.state.decode_started(now_ms, slot)
                elif stage == DECODE and times == 6:
                    self.state.call_done(now_ms, slot, 10)

    @precondition(lambda self: (self.state.stage == DECODE).any())
    @rule(
        pick=st.integers(0, 99), dt=TIMES, generated=st.integers(-1, 60), more=st.integers(-1, 200), lost=st.booleans()
    )
    def progress_or_loss(self, pick, dt, generated, more, lost):
        running = np.flatnonzero(self.state.stage == DECODE)
        slot = int(running[pick % len(running)])
        if lost:
            self.state.call_requeued(self.time(dt), slot, generated)
        else:
            self.state.call_progress(self.time(dt), slot, generated, generated + more)

    @rule(dt=TIMES, slot=SLOTS, replica=REPLICAS, cached=TOKENS)
    def prefill_started(self, dt, slot, replica, cached):
        self.state.prefill_started(self.time(dt), slot, replica, cached)

    @rule(dt=TIMES, replica=REPLICAS, end=TIMES)
    def prefill_batch(self, dt, replica, end):
        self.state.prefill_batch(self.time(dt), replica, end)

    @rule(dt=TIMES, slot=SLOTS, kind=st.sampled_from(["prefill_done", "transfer_done", "decode_started"]))
    def stage_event(self, dt, slot, kind):
        getattr(self.state, kind)(self.time(dt), slot)

    @rule(dt=TIMES, slot=SLOTS, generated=TOKENS, predicted=TOKENS)
    def call_progress(self, dt, slot, generated, predicted):
        self.state.call_progress(self.time(dt), slot, generated, predicted)

    @rule(dt=TIMES, slot=SLOTS, output=TOKENS)
    def call_done(self, dt, slot, output):
        self.state.call_done(self.time(dt), slot, output)

    @rule(dt=TIMES, slot=SLOTS, generated=TOKENS)
    def call_requeued(self, dt, slot, generated):
        self.state.call_requeued(self.time(dt), slot, generated)

    @rule(dt=TIMES, role=ROLES, index=REPLICAS, up=st.sampled_from([True, True, False]))
    def replica(self, dt, role, index, up):
        if up or self.names % 3 == 0:  # rarely down, or little would ever run
            (self.state.replica_up if up else self.state.replica_down)(self.time(dt), role, index)

    @rule(which=SLOTS, group=st.sampled_from(["", "g", "x"]), replica=REPLICAS, tokens=TOKENS)
    def prefix_held(self, which, group, replica, tokens):
        self.state.prefix_held(which, group, replica, tokens)

    @rule(dt=TIMES, which=SLOTS)
    def workflow_close(self, dt, which):
        if self.names % 4 == 0:  # rarely, or nothing would be left to look at
            self.state.workflow_close(self.time(dt), which)

    @invariant()
    def clock_is_a_time(self):
        assert 0.0 <= self.state.clock_ms < MAX_CLOCK_MS

    @invariant()
    def sums_equal_a_recount(self):
        state = self.state
        snapshot = state.snapshot(self.now_ms)
        calls, largest = snapshot.calls, max(r.kv_capacity_blocks for r in state.cluster.decode)
        live = sum(len(record.slots) for record in state.workflows.values())
        assert len(calls) == live == len(set(calls["serial"].tolist()))
        blocks = -(-(calls["input_tokens"] + calls["predicted_tokens"]) // BLOCK_TOKENS)
        assert np.array_equal(calls["kv_blocks"], blocks)
        assert np.all((calls["kv_blocks"] >= 1) & (calls["kv_blocks"] <= largest))
        assert np.all(np.isfinite(calls["horizon_ms"]) & (calls["horizon_ms"] >= 1.0))
        for d, replica in enumerate(snapshot.decodes):
            here = calls[(calls["stage"] == DECODE) & (calls["decode"] == d)]
            assert replica["running"] == len(here)
            tokens = float(np.sum(here["input_tokens"] + replica["steps"] - here["step_mark"]))
            assert replica["context_tokens"] == pytest.approx(tokens, rel=1e-6, abs=1e-3)
            assert (replica["step_ms"] > 0) == bool(len(here))
        for serial, slot in zip(calls["serial"].tolist(), calls["slot"].tolist(), strict=True):
            assert state.name(slot) == self.serials[serial]
        beyond_prefill = ~np.isin(calls["stage"], (EMPTY, WAIT_PREFILL))
        assert np.all(calls["decode"][beyond_prefill] >= 0)

    @invariant()
    def a_plan_can_always_be_made(self):
        snapshot = self.state.snapshot(self.now_ms)
        plan = plan_by_risk(snapshot)
        some_prefill = snapshot.prefills["up"].any()
        for i in np.flatnonzero(snapshot.calls["stage"][plan.rows] == WAIT_PREFILL):
            blocks = snapshot.calls["kv_blocks"][plan.rows[i]]
            fits = (snapshot.decodes["up"] == 1) & (snapshot.decodes["capacity_blocks"] >= blocks)
            assert (plan.decode[i] >= 0) == bool(fits.any() and some_prefill)
            assert plan.decode[i] < 0 or fits[plan.decode[i]]


Events.TestCase.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
TestEvents = Events.TestCase


# -- single facts ------------------------------------------------------------------------------------------------------


def test_a_snapshot_is_a_frozen_copy():
    state = busy_state(5, mixed_cluster())
    snapshot = state.snapshot(state.clock_ms)
    before = [np.copy(a) for a in (snapshot.calls, snapshot.prefill_ms, snapshot.held_tokens, snapshot.decodes)]
    prefills = np.copy(snapshot.prefills)
    adopt(state, plan_by_risk(snapshot))
    for slot in np.flatnonzero(state.stage == DECODE):
        state.call_done(state.clock_ms + 5.0, int(slot), 3)
    state.replica_down(state.clock_ms, "prefill", 0)
    for workflow in list(state.workflows):
        state.workflow_close(state.clock_ms, workflow)
    after = (snapshot.calls, snapshot.prefill_ms, snapshot.held_tokens, snapshot.decodes)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert np.array_equal(prefills, snapshot.prefills)
    with pytest.raises(AttributeError):
        snapshot.now_ms = 0.0


def test_running_sums_follow_the_steps():
    # Step 10 ms. Call a of 100 tokens starts at 0, b of 200 at 100: a has 10 by then: C = 110 + 200, B = 2.
    # At 200 both have 10 more: C = 330; a ends: C = 210.
    state = ClusterState(cluster())
    a, b = ready(state), ready(state, tokens=(200, 50))
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, a, 0.0, "decode")
    push(state, b, 100.0, "decode")
    assert (state.decodes["running"][0], state.decodes["context_tokens"][0]) == (2, pytest.approx(310.0))
    state.call_done(200.0, a, 20)
    assert (state.decodes["running"][0], state.decodes["context_tokens"][0]) == (1, pytest.approx(210.0))


def test_progress_corrects_the_count_and_the_reservation():
    # At 100 ms the state believes in 10 tokens; told 30 of 70: C = 130, ceil(170/16) = 11 blocks, 40 tokens to go.
    state = ClusterState(cluster())
    slot = ready(state)
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, slot, 0.0, "decode")
    assert state.generated_tokens(slot, 100.0) == 10
    state.call_progress(100.0, slot, 30, 70)
    call = state.snapshot(100.0).calls[0]
    assert state.decodes["context_tokens"][0] == pytest.approx(130.0)
    assert (call["kv_blocks"], call["predicted_tokens"]) == (11, 70)
    assert state.generated_tokens(slot, 100.0) == 30


def test_a_requeued_call_recomputes_what_it_generated_and_counts_it_once():
    # 100 + 50: lost after 20 tokens -> prompt 120, 30 to go; lost again after 25 of the whole call -> 125, 25 to go.
    state = ClusterState(cluster())
    slot = ready(state)
    for generated in (20, 25):
        adopt(state, plan_by_risk(state.snapshot(state.clock_ms)))
        push(state, slot, state.clock_ms, "decode")
        state.call_requeued(state.clock_ms + 1.0, slot, generated)
    call = state.snapshot(state.clock_ms).calls[0]
    assert (call["input_tokens"], call["predicted_tokens"], call["restored_tokens"]) == (125, 25, 25)
    assert (call["stage"], call["prefill"], call["decode"]) == (WAIT_PREFILL, -1, -1)
    assert state.decodes["running"][0] == 0


def test_a_reused_slot_does_not_inherit_a_plan():
    state = ClusterState(cluster())
    slot = ready(state)
    stale = plan_by_risk(state.snapshot(0.0))
    adopt(state, stale)
    push(state, slot, 0.0, "decode")
    state.call_done(1.0, slot, 5)
    assert ready(state, 2.0) == slot
    assert (state.prefill[slot], state.decode[slot]) == (-1, -1)
    assert state.serial[slot] != stale.serials[0]


def test_tables_grow_without_losing_anything():
    # 300 workflows (64 rows at first), 600 calls (256), 300 prefix groups (64).
    state = ClusterState(cluster(kv_tokens=10**6))
    slots = {}
    for i in range(300):
        w = state.workflow_open(float(i), f"w{i}")
        for j in range(2):
            slot = ready(
                state,
                float(i),
                workflow=w,
                name=f"c{j}",
                tokens=(100 + i, 1 + j),
                cached_prefix_tokens=5,
                prefix_group="g",
            )
            slots[f"w{i}", f"c{j}"] = slot
        state.prefix_held(w, "g", 0, 1 + i)
    snapshot = state.snapshot(300.0, names=True)
    assert len(snapshot.calls) == len(set(slots.values())) == 600
    for row, (workflow_id, request_id) in enumerate(snapshot.names):
        i, call = int(workflow_id[1:]), snapshot.calls[row]
        assert call["slot"] == slots[workflow_id, request_id]
        assert (call["input_tokens"], call["arrival_ms"], snapshot.held_tokens[call["prefix"], 0]) == (
            100 + i,
            i,
            1 + i,
        )
        assert snapshot.prefill_ms[row, 0, 0] == pytest.approx(10.0 + 0.1 * (100 + i))
        assert call["horizon_ms"] == state.horizon_ms(state.workflow_slot(int(call["slot"]))) > 1.0
    plan = plan_by_risk(snapshot)
    assert sorted(plan.rank.tolist()) == list(range(600))


def test_a_call_that_fits_nowhere_is_named():
    state = ClusterState(cluster(decode=(profile(), profile()), kv_tokens=(160, 320)))
    w = state.workflow_open(0.0, "w")
    assert ready(state, workflow=w, tokens=(319, 1)) >= 0
    assert ready(state, workflow=w, name="big", tokens=(320, 1)) == -1
    assert "input_tokens = 320: expected at most 319" in state.refused["w", "big"]
    state.workflow_close(0.0, w)
    assert not state.refused


@pytest.mark.parametrize("predicted", [1000, 2**31 - 1])
def test_a_prediction_that_fits_nowhere_is_cut_to_the_largest_replica(predicted):
    state = ClusterState(cluster(kv_tokens=320))
    ready(state, tokens=(100, predicted))
    call = state.snapshot(0.0).calls[0]
    assert (call["predicted_tokens"], call["kv_blocks"]) == (220, 20)


def test_a_replica_that_goes_down_takes_placements_and_prefixes_with_it():
    state = ClusterState(cluster((profile(), profile()), (profile(), profile())))
    w = state.workflow_open(0.0, "w")
    slot = ready(state, workflow=w, cached_prefix_tokens=50, prefix_group="g")
    state.prefix_held(w, "g", 0, 50)
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    assert (state.prefill[slot], state.decode[slot]) == (0, 0)
    state.replica_down(1.0, "prefill", 0)
    assert (state.prefill[slot], state.decode[slot]) == (-1, -1)
    assert state.snapshot(1.0).held_tokens.max() == 0
    assert plan_by_risk(state.snapshot(1.0)).prefill.tolist() == [1]
    state.replica_up(2.0, "prefill", 0)
    assert plan_by_risk(state.snapshot(2.0)).prefill.tolist() == [0]
    assert not state.anomalies
    state.replica_up(2.0, "prefill", 0)
    assert state.anomalies["replica_up: already up"] == 1


def test_abandoned_calls_leave_their_replica():
    state = ClusterState(cluster())
    w = state.workflow_open(0.0, "w")
    slot = ready(state, workflow=w)
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, slot, 0.0, "decode")
    state.workflow_close(5.0, w)
    assert (state.decodes["running"][0], state.decodes["context_tokens"][0]) == (0, 0.0)
    assert state.anomalies["workflow_close: call in stage decode abandoned"] == 1
    assert not state.workflows


@pytest.mark.parametrize("now_ms", [math.nan, math.inf, -math.inf, 1e300, -5.0])
def test_a_time_that_is_no_time_does_not_move_the_clock(now_ms):
    state = ClusterState(cluster())
    state.workflow_open(7.0, "w")
    state.workflow_open(now_ms, "x")
    assert state.clock_ms == state.snapshot(now_ms).now_ms == 7.0
    assert sum(count for name, count in state.anomalies.items() if name.startswith("clock")) == 1


@pytest.mark.parametrize("clock_ms", [math.nan, math.inf, 1e300])
def test_a_clock_must_start_somewhere(clock_ms):
    with pytest.raises(InputError, match="clock_ms"):
        ClusterState(cluster(), clock_ms=clock_ms)
