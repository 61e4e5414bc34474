"""The engine never raises, never takes a worse plan, and keeps deciding while a plan is being made."""

import logging
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_states import busy_state, cluster, mixed_cluster, profile

from hexsolve import events as ev
from hexsolve.engine import FixedLatency, PlacementEngine, measured_latency
from hexsolve.epoch import projected_cost
from hexsolve.errors import InputError
from hexsolve.inbox import Inbox
from hexsolve.listplan import plan_in_order
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policies.lookahead import Lookahead
from hexsolve.policies.round_robin import RoundRobin
from hexsolve.policies.solver import SolverPolicy
from hexsolve.solve import Result, Status, StopKind, StopReason
from hexsolve.tables import WAIT_DECODE, WAIT_PREFILL
from hexsolve.workers import WorkerPool
from hexsolve_models import Decision, cost, earliest_finish


@pytest.fixture(autouse=True)
def quiet(caplog):
    """Failures that tests provoke are logged with a traceback; keep them out of the output."""
    caplog.set_level(logging.CRITICAL)


def engine_of(policy, on=None, **options):
    return PlacementEngine(on or mixed_cluster(), policy, rehearse=False, **options)


def reveal(engine, count, *, now_ms=0.0, first=0, tokens=(200, 40)):
    for i in range(first, first + count):
        engine.tell(ev.WorkflowOpen(now_ms=now_ms, workflow_id=f"w{i}"))
        engine.tell(
            ev.CallReady(
                now_ms=now_ms,
                workflow_id=f"w{i}",
                request_id="a",
                input_tokens=tokens[0] + 37 * i,
                predicted_output_tokens=tokens[1] + 3 * i,
            )
        )


def columns(placements):
    return [(p.workflow_id, p.prefill, p.decode, p.priority) for p in placements]


def greedy_placements(count, now_ms=0.0, policy=None):
    engine = engine_of(policy or HexAgent())
    reveal(engine, count)
    return columns(engine.place(now_ms))


# -- solvers that misbehave --------------------------------------------------------------------------------------------


def outcome(decision, status=Status.FEASIBLE, objective=0.0, kind=StopKind.LIMIT):
    return Result(status, objective, 0.0, 0.0, 0.0, StopReason(kind), "hint", (), (), decision)


def raising(problem, **_):
    raise RuntimeError("no licence")


def running_out(problem, **_):
    raise MemoryError


def answering(change):
    """A solver that claims to have found `change(hint)` for nothing."""
    return lambda problem, hint, **_: outcome(change(hint[0]))


def moved(hint, **changes):
    return Decision(
        **{
            name: changes.get(name, getattr(hint, name))
            for name in ("prefill", "decode", "prefill_start", "decode_start")
        }
    )


BAD_SOLVERS = {
    "raises": (raising, "failed: RuntimeError"),
    "runs out of memory": (running_out, "failed: MemoryError"),
    "answers None": (lambda problem, **_: None, "failed: AttributeError"),
    "answers text": (lambda problem, **_: "optimal", "failed: AttributeError"),
    "no decision after all": (lambda problem, **_: outcome(None, Status.OPTIMAL), "failed: LookupError"),
    "infeasible": (lambda problem, **_: outcome(None, Status.INFEASIBLE), "failed: infeasible"),
    "no solution": (lambda problem, **_: outcome(None, Status.NO_SOLUTION), "failed: no_solution"),
    "not called": (
        lambda problem, hint, **_: outcome(hint[0], kind=StopKind.NOT_CALLED),
        "not_called: too little budget",
    ),
    "rejected": (
        lambda problem, hint, **_: outcome(hint[0], kind=StopKind.REJECTED),
        "failed: answer rejected by the referee",
    ),
    "too short": (answering(lambda h: Decision([0], [0], [0], [0])), "failed: decision breaks a rule"),
    "unknown decode replica": (answering(lambda h: moved(h, decode=h.decode + 99)), "failed: decision breaks a rule"),
    "negative prefill": (answering(lambda h: moved(h, prefill=h.prefill - 50)), "failed: decision breaks a rule"),
    "starts in the past": (
        answering(lambda h: moved(h, decode_start=h.decode_start - 10**6)),
        "failed: decision breaks a rule",
    ),
    "all at once": (answering(lambda h: moved(h, prefill_start=h.prefill_start * 0)), "failed: decision breaks a rule"),
    "the greedy decision": (answering(lambda h: h), "greedy_kept"),
    "the greedy decision, proved": (lambda problem, hint, **_: outcome(hint[0], Status.OPTIMAL), "greedy_optimal"),
    "a worse one": (answering(lambda h: moved(h, decode_start=h.decode_start + 5000)), "greedy_kept"),
    "a worse one, proved optimal": (
        lambda problem, hint, **_: outcome(moved(hint[0], decode_start=hint[0].decode_start + 9), Status.OPTIMAL),
        "greedy_kept",
    ),
}


@pytest.mark.parametrize("name", BAD_SOLVERS)
@pytest.mark.parametrize("deterministic", [None, 1.0])
def test_a_bad_solver_costs_nothing_but_a_count(name, deterministic):
    solve, counted = BAD_SOLVERS[name]
    engine = engine_of(SolverPolicy(budget_ms=10_000.0, solve=solve, deterministic=deterministic))
    reveal(engine, 6)
    assert columns(engine.place(0.0)) == greedy_placements(6, policy=Lookahead())
    assert engine.policy.outcomes == {counted: 1}
    assert engine.place(0.0)[0].receipt["outcome"] == counted


class Redirected(WorkerPool):
    """Workers that do something else than what they are asked for."""

    instead, wait_s = ("worker_jobs:echo", None), 0.0

    def submit(self, function, *arguments):
        job = super().submit(*self.instead)
        job.poll(self.wait_s)  # so that an answer is there however busy the machine is
        return job


WORKER_FAILURES = {
    "hangs": (("worker_jobs:sleep", 60), "late"),
    "holds the interpreter lock": (("worker_jobs:hold_the_interpreter_lock", 60), "late"),
    "is killed": (("worker_jobs:kill_self",), "ended during"),
    "exits": (("worker_jobs:exit_at_once",), "ended during"),
    "raises": (("worker_jobs:fail",), "cannot be"),
    "answers something else": (("worker_jobs:unpicklable",), ""),
}


@pytest.mark.parametrize("name", WORKER_FAILURES)
def test_a_worker_that_fails_leaves_a_plan_no_worse_than_the_greedy_one(name):
    job, why = WORKER_FAILURES[name]
    policy = SolverPolicy(budget_ms=500.0, steps=["cpsat_full"], processes=0)
    state = busy_state(1, mixed_cluster())
    snapshot = state.snapshot(state.clock_ms)
    policy.warm_up()
    for _ in range(3):  # a first epoch that has no time left for the solver leaves something to compile for the next
        policy.plan(snapshot)
    policy.outcomes.clear()
    policy._last, policy._pool = None, Redirected(1)
    policy._pool.instead, policy._pool.wait_s = job, 0.0 if why == "late" else 60.0
    try:
        assert policy._pool.wait(60.0)
        plan, greedy = policy.plan(snapshot), policy.fallback.plan(snapshot)
    finally:
        policy.close()
    (counted,) = policy.outcomes
    assert counted in ("better", "better_optimal", "greedy_kept", "greedy_optimal")
    (told,) = [told for told in plan.receipt["components"] if told.startswith("cpsat_full: ")]
    assert why in told
    assert told != "cpsat_full: "
    assert why != "late" or plan.receipt["wall_ms"] < 20_000.0  # not the minute that the worker takes
    curve = policy.params.curve(snapshot, greedy)
    assert projected_cost(snapshot, plan, curve) <= projected_cost(snapshot, greedy, curve)


@pytest.mark.parametrize("seed", range(6))
def test_a_solver_s_plan_is_adopted_only_if_both_judges_find_it_better(seed):
    state = busy_state(seed, mixed_cluster(kv_tokens=4_000))
    snapshot = state.snapshot(state.clock_ms)
    policy = SolverPolicy(deterministic=0.2)
    plan, greedy = policy.plan(snapshot), policy.fallback.plan(snapshot)
    curve = policy.params.curve(snapshot, greedy)
    before, after = (projected_cost(snapshot, p, curve) for p in (greedy, plan))
    (counted,) = policy.outcomes
    assert not counted.startswith("failed")
    if counted.startswith("better"):
        assert after < before
        assert plan.receipt["objective"] < plan.receipt["greedy_cost"]
        assert plan.receipt["bound"] <= plan.receipt["objective"]
    else:
        assert after == before
        assert np.array_equal(plan.rank, greedy.rank)


def test_a_really_better_decision_is_adopted():
    # The fallback puts everything on P0 and D0; list scheduling over all replicas is better by any judge.
    costs = []

    def solve(problem, hint, **_):
        better = earliest_finish(problem, np.arange(problem.num_calls))
        costs.append((cost(problem, better), cost(problem, hint[0])))
        return outcome(better)

    engine = engine_of(SolverPolicy(solve=solve, fallback=Poor()))
    reveal(engine, 6)
    placed = engine.place(0.0)
    assert costs[0][0] < costs[0][1]
    assert engine.policy.outcomes == {"better": 1}
    assert {p.provenance for p in placed} == {"solver"}
    assert "better" in placed[0].reason


def test_a_fallback_that_projects_nothing_can_still_be_improved():
    engine = engine_of(SolverPolicy(deterministic=0.2, fallback=RoundRobin()))
    reveal(engine, 6)
    assert len(engine.place(0.0)) == 6
    assert not [name for name in engine.policy.outcomes if name.startswith("failed")]


# -- policies that misbehave -------------------------------------------------------------------------------------------


class Wrong:
    """A policy whose plan is HexAGenT's with a change."""

    name, replans = "wrong", True

    def __init__(self, change):
        self.change = change

    def plan(self, snapshot):
        return self.change(HexAgent().plan(snapshot))


def boom(plan):
    raise ValueError("boom")


WRONG_POLICIES = {
    "raises": (boom, "ValueError"),
    "no plan": (lambda plan: None, "AttributeError"),
    "other slots": (lambda plan: replace(plan, slots=plan.slots + 10**6), "not the waiting calls"),
    "other serials": (lambda plan: replace(plan, serials=plan.serials + 1), "not the waiting calls"),
    "ranks missing": (lambda plan: replace(plan, rank=plan.rank[1:]), "columns of another length"),
    "replica beyond the pool": (lambda plan: replace(plan, decode=plan.decode + 77), "unknown replica"),
    "half placed": (lambda plan: replace(plan, prefill=plan.prefill * 0 - 1), "half a placement"),
    "replica down": (lambda plan: replace(plan, prefill=plan.prefill * 0 + 1), "replica that is down"),
}


@pytest.mark.parametrize("name", WRONG_POLICIES)
@pytest.mark.parametrize("role", ["policy", "fallback", "both"])
def test_a_plan_that_cannot_be_adopted_costs_nothing_but_a_count(name, role):
    change, why = WRONG_POLICIES[name]
    wrong, right = Wrong(change), HexAgent()
    latency = {"latency": FixedLatency(5.0)} if role == "fallback" else {}
    engine = engine_of(right if role == "fallback" else wrong, fallback=right if role == "policy" else wrong, **latency)
    engine.tell(ev.ReplicaDown(now_ms=0.0, replica="P1"))
    reveal(engine, 6)
    expected = engine_of(HexAgent())
    expected.tell(ev.ReplicaDown(now_ms=0.0, replica="P1"))
    reveal(expected, 6)
    assert columns(engine.place(0.0)) == columns(expected.place(0.0))
    assert engine.stats.failed == {f"wrong: {why}": 2 if role == "both" else 1}


def test_a_call_too_large_for_its_replica_is_refused():
    on = cluster(decode=(profile(), profile()), kv_tokens=(320, 16_000))
    engine = engine_of(Wrong(lambda plan: replace(plan, decode=plan.decode * 0)), on)
    reveal(engine, 2, tokens=(1000, 40))
    assert [p.decode for p in engine.place(0.0)] == ["D1", "D1"]
    assert engine.stats.failed == {"wrong: KV does not fit": 1}


# -- asynchronous planning ---------------------------------------------------------------------------------------------


class Reversed:
    """Plans the greedy's order backwards; remembers what it saw."""

    name, replans = "reversed", True

    def __init__(self):
        self.seen = []

    def plan(self, snapshot):
        self.seen.append((snapshot.now_ms, len(snapshot.waiting)))
        greedy = HexAgent().plan(snapshot)
        return plan_in_order(snapshot, np.argsort(-greedy.rank), provenance=self.name)


class Poor:
    """A poor fallback: everything on P0 and D0 in order of reveal, so that any other plan is better."""

    name, replans = "poor", True

    def plan(self, snapshot):
        n = len(snapshot.waiting)
        nowhere = np.zeros(n, dtype=np.int64)
        return plan_in_order(snapshot, np.arange(n), prefill=nowhere, decode=nowhere, provenance=self.name)


def test_the_fallback_decides_until_the_plan_lands():
    engine = engine_of(HexAgent(), fallback=Poor(), latency=FixedLatency(30.0))
    reveal(engine, 6)
    at_once = engine.place(0.0)
    assert {p.provenance for p in at_once} == {"poor"}
    assert {p.prefill for p in at_once} == {"P0"}
    assert engine.next_wakeup_ms() == 30.0
    assert {p.provenance for p in engine.place(29.0)} == {"poor"}
    landed = engine.place(30.0)
    assert {p.provenance for p in landed} == {"hexagent"}
    assert {p.prefill for p in landed} != {"P0"}
    assert engine.stats.landed == {"adopted": 1}


def test_only_calls_that_still_wait_adopt_a_plan_and_new_ones_join_it():
    engine = engine_of(HexAgent(), fallback=Poor(), latency=FixedLatency(30.0))
    reveal(engine, 6)
    engine.place(0.0)
    engine.tell(ev.PrefillStarted(now_ms=1.0, workflow_id="w0", request_id="a", replica="P0", expected_end_ms=40.0))
    reveal(engine, 1, now_ms=2.0, first=6)
    placed = engine.place(30.0)
    assert sorted(p.workflow_id for p in placed) == [f"w{i}" for i in range(1, 7)]
    slot = engine.state.workflows[0].slots["a"]
    assert (engine.state.prefill[slot], engine.state.decode[slot]) == (0, 0)  # bound when it started
    assert engine.stats.landed == {"adopted": 1}


def test_a_plan_whose_calls_have_all_left_is_outdated():
    engine = engine_of(HexAgent(), fallback=Poor(), latency=FixedLatency(30.0))
    reveal(engine, 2)
    engine.place(0.0)
    for i in range(2):
        engine.tell(ev.WorkflowClose(now_ms=5.0, workflow_id=f"w{i}"))
    reveal(engine, 2, now_ms=6.0, first=2)
    assert {p.provenance for p in engine.place(30.0)} == {"poor"}
    assert engine.stats.landed == {"outdated": 1}


def test_a_landed_plan_that_is_no_better_than_the_fallback_is_dropped():
    engine = engine_of(Poor(), latency=FixedLatency(30.0))
    reveal(engine, 6)
    engine.place(0.0)
    assert columns(engine.place(30.0)) == greedy_placements(6, 30.0)
    assert engine.stats.landed == {"fallback_better": 1}


def test_epochs_keep_their_distance_and_an_unchanged_state_is_not_planned_twice():
    policy = Reversed()
    engine = engine_of(policy, latency=FixedLatency(10.0), epoch_ms=100.0)
    reveal(engine, 6)
    engine.decide(0.0)
    engine.decide(10.0)
    assert engine.next_wakeup_ms() == float("inf")  # nothing has happened since
    reveal(engine, 1, now_ms=20.0, first=6)
    engine.decide(20.0)
    assert engine.next_wakeup_ms() == 100.0
    engine.decide(100.0)
    assert policy.seen == [(0.0, 6), (100.0, 7)]


def test_plans_without_latency_by_a_model_do_not_repeat_forever():
    engine = engine_of(HexAgent(), latency=FixedLatency(0.0))
    reveal(engine, 3)
    wakeups = 0
    engine.decide(0.0)
    while engine.next_wakeup_ms() <= 0.0 and wakeups < 10:
        wakeups += 1
        engine.decide(0.0)
    assert wakeups == 1


def test_an_asynchronous_policy_that_fails_leaves_the_fallback():
    engine = engine_of(Wrong(boom), latency=FixedLatency(10.0))
    reveal(engine, 6)
    engine.place(0.0)
    assert columns(engine.place(10.0)) == greedy_placements(6, 10.0)
    assert engine.stats.landed == {"failed": 1}
    assert engine.stats.failed == {"wrong: ValueError": 1}


def test_latency_models():
    assert FixedLatency(5.0, 0.5)(123.0, 10) == 10.0
    assert measured_latency(7.5, 3) == 7.5
    engine = engine_of(HexAgent(), latency=FixedLatency(5.0, 0.5))
    reveal(engine, 4)
    engine.decide(100.0)
    assert engine.next_wakeup_ms() == 107.0


# -- a background thread -----------------------------------------------------------------------------------------------


class Waiting:
    """Plans like HexAGenT once it may."""

    name, replans = "waiting", True

    def __init__(self):
        self.may = threading.Event()

    def plan(self, snapshot):
        assert self.may.wait(20.0)
        return HexAgent().plan(snapshot)


def test_a_threaded_engine_decides_meanwhile_and_adopts_when_the_plan_is_done():
    policy = Waiting()
    engine = engine_of(policy, fallback=Poor(), threaded=True)
    reveal(engine, 6)
    assert {p.provenance for p in engine.place(0.0)} == {"poor"}
    assert {p.provenance for p in engine.place(1.0)} == {"poor"}
    policy.may.set()
    deadline = time.perf_counter() + 10.0
    while not engine.stats.landed and time.perf_counter() < deadline:
        placed = engine.place(2.0)
        time.sleep(0.001)
    assert engine.stats.landed == {"adopted": 1}
    assert {p.provenance for p in placed} == {"hexagent"}
    engine.close()


def test_a_closed_engine_goes_on_with_its_fallback():
    engine = engine_of(Reversed(), threaded=True)
    reveal(engine, 6)
    engine.place(0.0)
    engine.close()
    reveal(engine, 1, now_ms=1.0, first=6)
    assert len(engine.place(1.0)) == 7
    engine.close()


def test_a_thread_s_failure_is_counted():
    engine = engine_of(Wrong(boom), threaded=True)
    reveal(engine, 6)
    deadline = time.perf_counter() + 10.0
    while not engine.stats.landed and time.perf_counter() < deadline:
        assert columns(engine.place(0.0)) == greedy_placements(6)
    assert engine.stats.failed == {"wrong: ValueError": 1}
    engine.close()


# -- whatever it is told -----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["w0", "w1", "w2", "w3", "P0", "D0", "D1", "", None])
NUMBERS = st.one_of(
    st.integers(-5, 600), st.floats(-10.0, 500.0), st.sampled_from([float("nan"), float("inf"), 2**31, 10**400, None])
)
KINDS = list(Inbox(engine_of(HexAgent()).state)._handlers)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(KINDS), st.lists(NAMES, min_size=9, max_size=9), st.lists(NUMBERS, min_size=9, max_size=9)
        ),
        max_size=25,
    ),
    st.sampled_from([{}, {"latency": FixedLatency(20.0)}]),
)
def test_place_has_an_answer_after_anything(stream, options):
    engine = engine_of(HexAgent(), mixed_cluster(kv_tokens=2_000), **options)
    reveal(engine, 3)
    engine.place(0.0)
    for kind, names, numbers in stream:
        fields = zip(kind.__struct_fields__, names, numbers, strict=False)
        told = {f: number if f.endswith(("_ms", "tokens")) else name for f, name, number in fields}
        known = {name: value for name, value in (("request_id", "a"), ("dependencies", ())) if name in told}
        engine.tell(kind(**(told | known)))
        asked_ms = numbers[-1] if isinstance(numbers[-1], float) else 0.0
        assert_every_call_that_can_be_placed_is(engine, engine.place(asked_ms))


def assert_every_call_that_can_be_placed_is(engine, placed):
    state = engine.state
    snapshot = state.snapshot(0.0)
    decodes = {r.name: i for i, r in enumerate(state.cluster.decode)}
    prefills = {r.name: i for i, r in enumerate(state.cluster.prefill)}
    by_name = {(p.workflow_id, p.request_id): p for p in placed}
    assert len(by_name) == len(placed)
    expected = set()
    for call in snapshot.calls[snapshot.waiting]:
        fits = (snapshot.decodes["up"] == 1) & (snapshot.decodes["capacity_blocks"] >= call["kv_blocks"])
        if call["stage"] == WAIT_DECODE or (fits.any() and snapshot.prefills["up"].any()):
            name = state.name(int(call["slot"]))
            expected.add(name)
            p = by_name[name]
            if call["stage"] == WAIT_PREFILL:
                assert fits[decodes[p.decode]]
                assert snapshot.prefills["up"][prefills[p.prefill]] == 1
            else:
                assert (p.prefill, decodes[p.decode]) == (None, call["decode"])
    assert set(by_name) == expected


@pytest.mark.parametrize("now_ms", [float("nan"), float("inf"), -1e300])
def test_asking_at_no_time_is_asking_now(now_ms):
    engine = engine_of(HexAgent())
    reveal(engine, 3, now_ms=5.0)
    placed = engine.place(now_ms)
    assert columns(placed) == columns(engine.place(5.0))
    assert all(np.isfinite(p.projected_finish_ms) for p in placed)


def test_replicas_go_down_and_come_back():
    on = cluster((profile(), profile()), (profile(), profile()))
    engine = engine_of("hexagent", on)
    reveal(engine, 4)
    for lost in ("P0", "D1"):
        engine.tell(ev.ReplicaDown(now_ms=1.0, replica=lost))
    assert {(p.prefill, p.decode) for p in engine.place(1.0)} == {("P1", "D0")}
    engine.tell(ev.ReplicaDown(now_ms=2.0, replica="P1"))
    assert engine.place(2.0) == []
    engine.tell(ev.ReplicaUp(now_ms=3.0, replica="P0"))
    assert {(p.prefill, p.decode) for p in engine.place(3.0)} == {("P0", "D0")}


def test_bad_configuration_raises_at_the_door():
    with pytest.raises(InputError, match="epoch_ms"):
        engine_of("hexagent", epoch_ms=-1.0)
    with pytest.raises(InputError, match="policy"):
        engine_of("best")
    with pytest.raises(InputError, match="latency"):
        FixedLatency(float("nan"))
    with pytest.raises(InputError, match="clock_ms"):
        engine_of("hexagent", clock_ms=float("inf"))


def test_rehearsal_leaves_no_trace():
    engine = PlacementEngine(mixed_cluster(), SolverPolicy(deterministic=0.01))
    assert not engine.policy.outcomes
    assert not engine.stats.failed
    assert engine.place(0.0) == []


def test_when_to_decide():
    replans, keeps = engine_of("hexagent"), engine_of("workflow-fcfs")
    for kind in ("call_ready", "call_requeued", "replica_down", "replica_up"):
        assert replans.needs_decision(kind)
        assert keeps.needs_decision(kind)
    assert replans.needs_decision("transfer_done")
    assert not keeps.needs_decision("transfer_done")
    assert not replans.needs_decision("call_done")


def test_statistics():
    engine = engine_of("hexagent")
    assert engine.stats.percentile_ms(99) == 0.0
    for _ in range(3):
        engine.decide(0.0)
    assert len(engine.stats.decision_ms) == 3
    assert engine.stats.percentile_ms(99) > 0.0
