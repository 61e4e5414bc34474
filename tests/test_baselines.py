"""The baselines of the field: what all of them promise, and where each rule decides unlike the others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_states import adopt, busy_state, cluster, mixed_cluster, profile, push, ready

from hexsolve.adoption import objection
from hexsolve.catalog import load_cluster
from hexsolve.engine import PlacementEngine
from hexsolve.errors import InputError
from hexsolve.generate import generate
from hexsolve.policies import POLICIES, build_policy
from hexsolve.policies._history import Completed, History
from hexsolve.policies.autellix import AutellixAtlas, AutellixPlas, Levels
from hexsolve.policies.cache_aware import CacheAware
from hexsolve.policies.continuum import Continuum, best_pin_ms
from hexsolve.policies.dynamo import Dynamo
from hexsolve.policies.hexgen_flow import HexgenFlow, Templates
from hexsolve.policies.llumnix import LlumnixPd
from hexsolve.policies.mdd import Mdd
from hexsolve.policies.mooncake import Mooncake
from hexsolve.policies.saga import Saga
from hexsolve.policies.splitwise import Splitwise
from hexsolve.policies.thunder_agent import ThunderAgent
from hexsolve.policies.workflow_atc import WorkflowAtc
from hexsolve.policies.workflow_edf import WorkflowEdf
from hexsolve.policies.workflow_triage import WorkflowTriage
from hexsolve.predict import parse_predictor
from hexsolve.sim import simulate
from hexsolve.state import ClusterState
from hexsolve.tables import WAIT_PREFILL

BASELINES = sorted(name for name, info in POLICIES.items() if info.label != "ours")
# Times on `cluster()`: a call of (n, m) tokens takes 10 + n/10 ms of prefill, 2 + n/10 of transfer and 10·m of decode.


def busy(seed, kv_tokens=6_000):
    """Calls in every stage; one prefill replica is down and the rows of two finished calls are empty."""
    state = busy_state(seed, mixed_cluster(kv_tokens=kv_tokens))
    for slot in np.flatnonzero(state.stage == 5)[:2]:
        state.call_done(state.clock_ms, int(slot), 5)
    state.replica_down(state.clock_ms, "prefill", seed % 3)
    return state


def by_serial(plan):
    """(prefill, decode, place in the order) of each call by its serial."""
    place = np.argsort(np.argsort(plan.rank))
    columns = zip(plan.prefill.tolist(), plan.decode.tolist(), place.tolist(), strict=True)
    return dict(zip(plan.serials.tolist(), columns, strict=True))


def in_order(plan):
    """Slots, most urgent first."""
    return plan.slots[np.argsort(plan.rank)].tolist()


# -- what all of them promise -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
@given(seed=st.integers(0, 10_000), kv_tokens=st.sampled_from([2_000, 6_000, 40_000]))
@settings(max_examples=12)
def test_every_call_that_fits_somewhere_is_placed_and_the_plan_can_be_adopted(name, seed, kv_tokens):
    state = busy(seed, kv_tokens)
    snapshot = state.snapshot(state.clock_ms)
    plan = build_policy(name).plan(snapshot)
    assert objection(snapshot, plan) == ""
    calls = snapshot.calls[snapshot.waiting]
    assert np.all(plan.decode >= 0)
    assert np.all((plan.prefill >= 0) == (calls["stage"] == WAIT_PREFILL))
    assert len(set(plan.rank.tolist())) == len(plan)


@pytest.mark.parametrize("name", BASELINES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_numbers_of_rows_slots_and_workflows_mean_nothing(name, seed):
    # Calls in service keep their order: by it the projection decides which of two overdue transfers comes first.
    state = busy(seed)
    snapshot = state.snapshot(state.clock_ms)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(snapshot.calls))
    in_service = ~np.isin(order, snapshot.waiting)
    order[in_service] = np.sort(order[in_service])
    shuffled = replace(snapshot, calls=snapshot.calls[order], prefill_ms=snapshot.prefill_ms[order])
    for column in ("slot", "workflow"):
        numbers = rng.permutation(1 + int(shuffled.calls[column].max()))
        shuffled.calls[column] = numbers[shuffled.calls[column]]
    assert by_serial(build_policy(name).plan(snapshot)) == by_serial(build_policy(name).plan(shuffled))


@pytest.mark.parametrize("name", BASELINES)
def test_a_view_with_empty_rows_gives_the_plan_of_the_snapshot(name):
    state = busy(3)
    assert np.any(state.view(state.clock_ms).calls["stage"] == 0)
    policy, other = build_policy(name), build_policy(name)
    for now_ms in (state.clock_ms, state.clock_ms + 30.0):
        plan, same = policy.plan(state.view(now_ms)), other.plan(state.snapshot(now_ms))
        assert by_serial(plan) == by_serial(same)


@pytest.mark.parametrize("name", BASELINES)
def test_a_simulation_runs_to_its_end_and_again_the_same(name):
    on, workload = load_cluster("demo"), generate("text2sql", 8, 3)
    ends = []
    for _ in range(2):
        engine = PlacementEngine(on, name, rehearse=False)
        result = simulate(on, workload, engine, predictor=parse_predictor("noisy:0.4", workload, 3), seed=3)
        assert not engine.stats.failed
        assert not engine.state.anomalies
        ends.append(result.finish_ms)
    assert np.array_equal(*ends)


# -- orders -----------------------------------------------------------------------------------------------------------


def two_workflows(third=(100, 55)):
    """(state, a, b, c): two calls of W1 and one of W2, all revealed at 0."""
    state = ClusterState(cluster())
    first = state.workflow_open(0.0, "w1")
    a, b = ready(state, workflow=first), ready(state, workflow=first, name="b", tokens=(100, 5))
    return state, a, b, ready(state, tokens=third)


def test_due_date_laxity_remaining_work_and_its_weighted_form_order_the_same_calls_differently():
    # W1: a (100, 50) takes 20 + 12 + 500 = 532, b (100, 5) after it on the replica takes 82; H = 532, due 1064.
    # W2: c (100, 53) takes 562 = H, due 1124.
    state, a, b, c = two_workflows((100, 53))
    now = state.snapshot(0.0)
    assert in_order(build_policy("workflow-edf").plan(now)) == [a, b, c]  # due 1064, 1064, 1124
    assert in_order(build_policy("workflow-llf").plan(now)) == [a, c, b]  # laxity 532, 562, 982
    assert in_order(build_policy("srpt").plan(now)) == [c, a, b]  # left: W1 532 + 82 = 614, W2 562
    assert in_order(build_policy("heft").plan(now)) == [c, a, b]  # the longest call first
    # Left times H: W1 614·532 = 326 648, W2 562·562 = 315 844; with (100, 55) for c 582² = 338 724.
    assert in_order(build_policy("wspt").plan(now)) == [c, a, b]
    d = ready(state, tokens=(100, 55))
    assert in_order(build_policy("wspt").plan(state.snapshot(0.0))) == [c, a, b, d]
    assert in_order(build_policy("heft").plan(state.snapshot(0.0))) == [d, c, a, b]


def test_modified_due_dates_turn_to_remaining_work_once_workflows_are_late():
    # As above with c (100, 55): due 1064 and 1164, left 614 and 582. At 600 ms both would end late: 1214 and 1182.
    state, a, b, c = two_workflows()
    assert in_order(Mdd(alpha=2.0).plan(state.snapshot(0.0))) == [a, b, c]
    assert in_order(Mdd(alpha=2.0).plan(state.snapshot(600.0))) == [c, a, b]
    assert in_order(WorkflowEdf(alpha=2.0).plan(state.snapshot(600.0))) == [a, b, c]


def test_what_can_no_longer_meet_the_target_comes_last():
    # The same three. At 600 ms a would end at 1132, c at 1182, both late even alone; b at 682.
    state, a, b, c = two_workflows()
    assert in_order(WorkflowTriage(alpha=2.0).plan(state.snapshot(0.0))) == [a, b, c]
    assert in_order(WorkflowTriage(alpha=2.0).plan(state.snapshot(600.0))) == [b, a, c]  # a takes 532, c 582
    assert in_order(WorkflowAtc(alpha=2.0).plan(state.snapshot(600.0))) == [b, c, a]  # W1 has 614 left
    # With a target of 3 nothing is lost and all is by what is left and what slack there is.
    assert in_order(WorkflowAtc(alpha=3.0).plan(state.snapshot(600.0))) == [a, c, b]


def test_apparent_tardiness_weighs_slack_against_remaining_work_by_what_waits():
    # Left 614 and 582, slack of a 532, of b 982, of c 582; the backlog is (532 + 82 + 582) / 1 = 1196.
    state, a, b, c = two_workflows()
    now = state.snapshot(0.0)
    # exp(-532 / 1196) / 614 = 1.044e-3, exp(-982 / 1196) / 614 = 0.717e-3, exp(-582 / 1196) / 582 = 1.056e-3
    assert in_order(WorkflowAtc(alpha=2.0).plan(now)) == [c, a, b]
    # A tenth of it: exp(-4.45) / 614 = 1.9e-5, 4.4e-7, exp(-4.87) / 582 = 1.3e-5
    assert in_order(WorkflowAtc(alpha=2.0, patience=0.1).plan(now)) == [a, c, b]
    # So short of patience that exp() is 0 for all: still by slack.
    assert in_order(WorkflowAtc(alpha=2.0, patience=1e-5).plan(now)) == [a, c, b]


def test_levels_of_attained_service():
    levels = Levels(count=4, first_ms=250.0, beta=4.0)
    attained = np.array([0.0, 249.0, 250.0, 499.0, 500.0, 1000.0, 1e9])
    assert levels.of(attained, np.zeros(7)).tolist() == [0, 0, 1, 1, 2, 3, 3]
    # Attained 500: promoted from a wait of 4·500 on. Nothing attained counts as the first bound: from 4·250 on.
    assert levels.of(np.array([500.0, 500.0]), np.array([1999.0, 2000.0])).tolist() == [2, 0]


def done(state, policy, slots, start_ms):
    """Drive placed calls of (100, 10) tokens side by side from prefill to completion; the policy looks on in decode."""
    for slot in slots:
        state.prefill_started(start_ms, slot, int(state.prefill[slot]))
    for slot in slots:
        state.prefill_done(start_ms + 20.0, slot)
    for slot in slots:
        state.transfer_done(start_ms + 32.0, slot)
    for slot in slots:
        state.decode_started(start_ms + 32.0, slot)
    policy.plan(state.snapshot(start_ms + 100.0))
    for slot in slots:
        state.call_done(start_ms + 132.0, slot, 10)


@pytest.mark.parametrize(("build", "next_first"), [(AutellixPlas, False), (AutellixAtlas, True)])
def test_plas_adds_up_parallel_calls_and_atlas_takes_their_longest_path(build, next_first):
    # A program's calls a and b run side by side for 20 + 12 + 100 = 132 ms each. Then its next call and the first call
    # of another program wait. Levels begin at 0, 250, ... ms. PLAS: 264 ms are level 1, behind the other's 0. ATLAS: b
    # stands after a's prefill in the standalone schedule, so the path is 20 + 132 = 152 ms: level 0, like the other;
    # first come, first served.
    policy = build(levels=Levels(count=8, first_ms=250.0))
    state = ClusterState(cluster((profile(), profile()), (profile(),)))
    program = state.workflow_open(0.0, "program")
    slots = [ready(state, workflow=program, name=name, tokens=(100, 10)) for name in "ab"]
    adopt(state, policy.plan(state.snapshot(0.0)))
    done(state, policy, slots, 0.0)
    following = ready(state, 132.0, workflow=program, name="c", dependencies=("a", "b"))
    other = ready(state, 133.0)
    order = in_order(policy.plan(state.snapshot(133.0)))
    assert order == ([following, other] if next_first else [other, following])


def test_long_prompts_of_a_program_go_to_its_replica_and_short_ones_anywhere():
    # P0 is ten times as fast. The program's prefix is on P1. Saved there: 60 of 100 tokens.
    state = ClusterState(cluster((profile(prefill=(1.0, 0.01)), profile()), (profile(),)))
    flow = state.workflow_open(0.0, "w")
    state.prefix_held(flow, "g", 1, 60)
    ready(state, workflow=flow, tokens=(100, 5), cached_prefix_tokens=60, prefix_group="g")
    assert AutellixPlas(long_prompt_tokens=100).plan(state.snapshot(0.0)).prefill.tolist() == [0]
    assert AutellixPlas(long_prompt_tokens=99).plan(state.snapshot(0.0)).prefill.tolist() == [1]
    state.replica_down(0.0, "prefill", 1)
    assert AutellixPlas(long_prompt_tokens=99).plan(state.snapshot(0.0)).prefill.tolist() == [0]


def chain(kinds, service_ms):
    """Completed calls of one workflow in slot 0, one step after the other."""
    steps = np.arange(len(kinds))
    return Completed(0 * steps, np.array(kinds, dtype=int), steps, np.array(service_ms), 0.0 * steps)


NONE = np.array([], dtype=int)


def test_a_call_with_much_work_behind_it_has_a_smaller_share_of_the_budget_left():
    # Both (100, 50) after a tool of 600 ms: own 532, H 1132. Plain: budget 2·1132 - 600 = 1664, U = 532 - 1664.
    # Of kind x, which 1000 ms are known to follow: (2·2132 - 600)·532/1532 = 1272, U = 532 - 1272, more urgent.
    state = ClusterState(cluster())
    flows = [state.workflow_open(0.0, name) for name in ("plain", "x")]
    plain, x = (ready(state, 600.0, workflow=flow, kind=kind) for flow, kind in zip(flows, ("", "x"), strict=True))
    assert in_order(HexgenFlow().plan(state.snapshot(600.0))) == [plain, x]
    policy = HexgenFlow()
    policy._templates.learn(chain([1, 2], [100.0, 1000.0]), NONE)
    policy._templates.learn(chain([], []), np.array([0]))
    assert in_order(policy.plan(state.snapshot(600.0))) == [x, plain]


def test_templates_learn_the_service_that_follows_a_step():
    # One workflow of kinds 0, 1, 2 with 100, 200 and 300 ms: 500 ms follow the first step, 300 the second, 0 the third.
    # A second one with 100, 400: the mean after the first step is (500 + 400)/2.
    templates = Templates()
    calls = np.zeros(3, dtype=[("kind", "i8"), ("step", "i8")])
    calls["kind"] = calls["step"] = range(3)
    templates.learn(chain([0, 1, 2], [100.0, 200.0, 300.0]), NONE)
    assert templates.after_ms(calls).tolist() == [0.0, 0.0, 0.0]
    templates.learn(chain([], []), np.array([0]))
    assert templates.after_ms(calls).tolist() == [500.0, 300.0, 0.0]
    templates.learn(chain([0, 1], [100.0, 400.0]), NONE)
    templates.learn(chain([], []), np.array([0]))
    assert templates.after_ms(calls).tolist() == [450.0, 150.0, 0.0]


def test_the_best_pin_covers_most_tool_times_while_it_pays():
    # Gain 100: 10 ms cover 3 of 4: 75 - 10; 1000 ms cover all: 100 - 1000. Gain 10: 7.5 - 10 < 0, no pin.
    tool_ms = np.array([1000.0, 10.0, 10.0, 10.0])
    assert best_pin_ms(tool_ms, 100.0) == 10.0
    assert best_pin_ms(tool_ms, 10.0) == 0.0
    assert best_pin_ms(tool_ms, 4100.0) == 1000.0  # 3075 - 10 < 4100 - 1000
    assert best_pin_ms(np.array([]), 100.0) == 0.0


def test_a_program_that_comes_back_at_once_goes_before_older_ones_under_continuum_only():
    orders = {}
    for policy in (Continuum(), build_policy("workflow-fcfs")):
        state = ClusterState(cluster())
        young = state.workflow_open(0.0, "young")
        first = ready(state, workflow=young, tokens=(100, 10))
        adopt(state, policy.plan(state.snapshot(0.0)))
        done(state, policy, [first], 0.0)
        old = ready(state, 132.0, workflow=state.workflow_open(132.0, "old", arrival_ms=-1.0))
        back = ready(state, 132.0, workflow=young, name="b", dependencies=("a",))
        orders[policy.name] = in_order(policy.plan(state.snapshot(132.0))) == [back, old]
    assert orders == {"continuum": True, "workflow-fcfs": False}


def test_programs_beyond_the_capacity_come_behind_those_in_service():
    # 100 blocks, 90 of them may be used. The young program has 10 blocks in decode and 10 waiting; the old one's 80
    # would make 100: paused. By arrival the old one would be first.
    state = ClusterState(cluster(kv_tokens=1_600))
    young = state.workflow_open(1.0, "young")
    running = ready(state, 1.0, workflow=young)
    adopt(state, build_policy("workflow-fcfs").plan(state.snapshot(1.0)))
    push(state, running, 1.0, "decode")
    big = ready(state, 2.0, workflow=state.workflow_open(2.0, "old", arrival_ms=0.0), tokens=(1200, 80))
    small = ready(state, 3.0, workflow=young, name="b")
    assert in_order(ThunderAgent(threshold=0.9).plan(state.snapshot(3.0))) == [small, big]
    assert in_order(ThunderAgent(threshold=1.0).plan(state.snapshot(3.0))) == [big, small]
    assert in_order(build_policy("workflow-fcfs").plan(state.snapshot(3.0))) == [big, small]


# -- placements -------------------------------------------------------------------------------------------------------


def with_prefix_on_p1(queue_ms):
    """Two equal prefill replicas; P1 holds 60 of the call's 100 tokens and is busy for `queue_ms`.

    Prefill takes 10 + 100/10 = 20 ms on P0 and 10 + 40/10 = 14 ms on P1.
    """
    state = ClusterState(cluster((profile(), profile()), (profile(),)))
    flow = state.workflow_open(0.0, "w")
    state.prefix_held(flow, "g", 1, 60)
    ready(state, workflow=flow, tokens=(100, 5), cached_prefix_tokens=60, prefix_group="g")
    state.prefill_batch(0.0, 1, queue_ms)
    return state


@pytest.mark.parametrize(
    ("queue_ms", "policy", "replica"),
    [
        (5.0, Dynamo(), 1),  # 5 + 14 < 20
        (7.0, Dynamo(), 0),  # 7 + 14 > 20
        (150.0, CacheAware(balance_abs_ms=200.0), 1),  # balanced: the longest match
        (250.0, CacheAware(balance_abs_ms=200.0), 0),  # out of balance: the least loaded
        (150.0, CacheAware(balance_abs_ms=200.0, cache_threshold=0.6), 0),  # 60 of 100 tokens are not above 0.6
        (190.0, Saga(window_ms=250.0), 1),  # load 0.76 < 0.8
        (210.0, Saga(window_ms=250.0), 0),  # load 0.84
        (150.0, Continuum(), 1),  # the program's replica, whatever its queue
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_how_long_a_queue_is_put_up_with_for_a_prefix(queue_ms, policy, replica):
    state = with_prefix_on_p1(queue_ms)
    assert policy.plan(state.snapshot(0.0)).prefill.tolist() == [replica]


def three_decodes(tokens):
    """Decode steps of 10, 12 and 14 ms; a call of 10 + 50 tokens runs on the fastest; a call of `tokens` waits."""
    steps = (profile(decode=(10.0, 0.0, 0.0)), profile(decode=(12.0, 0.0, 0.0)), profile(decode=(14.0, 0.0, 0.0)))
    state = ClusterState(cluster((profile(),), steps))
    running = ready(state, tokens=(10, 50))
    adopt(state, build_policy("workflow-fcfs").plan(state.snapshot(0.0)))
    assert state.decode[running] == 0
    push(state, running, 0.0, "decode")
    ready(state, tokens=tokens)
    return state.snapshot(0.0)


@pytest.mark.parametrize(
    ("policy", "tokens", "replica"),
    [
        (Dynamo(), (10, 10), 0),  # soonest: 10 ms per token
        (Mooncake(tbt_scale=1.3), (10, 10), 1),  # within 13 ms: D0 and D1; D1 holds nothing
        (Mooncake(tbt_scale=1.1), (10, 10), 0),  # only D0 keeps the pace
        (Mooncake(tbt_scale=0.5), (10, 10), 0),  # none does: the fastest
        (LlumnixPd(tpot_scale=1.8), (10, 10), 2),  # below 0.85·18 = 15.3 ms: the slowest of all three
        (LlumnixPd(tpot_scale=1.5), (10, 10), 1),  # below 12.75 ms
        (LlumnixPd(tpot_scale=1.1), (10, 10), 0),  # below 9.35 ms is none: the fastest
        (Splitwise(), (10, 10), 1),  # (50 + 10)/2·10 = 300, 10·12 = 120, 10·14 = 140
        (Splitwise(), (10, 500), 0),  # (50 + 500)/2·10 = 2750, 500·12 = 6000
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_which_decode_replica_a_router_takes(policy, tokens, replica):
    assert policy.plan(three_decodes(tokens)).decode.tolist() == [replica]


def test_counting_tokens_takes_a_slow_replica_for_an_equal_one():
    # Prefill 20 ms on P0, 110 on P1. With 100 tokens placed on P0: by time 40 against 110, by tokens 200 against 100.
    state = ClusterState(cluster((profile(), profile(prefill=(10.0, 1.0))), (profile(),)))
    ready(state)
    adopt(state, Dynamo().plan(state.snapshot(0.0)))
    second = ready(state)
    snapshot = state.snapshot(0.0)
    for policy, replica in ((Dynamo(), 0), (Dynamo(by_time=False), 1), (Splitwise(by_time=False), 1)):
        plan = policy.plan(snapshot)
        assert plan.prefill[plan.slots == second].tolist() == [replica]


def test_shortest_prompt_first_is_a_queue_of_the_dynamo_router():
    state = ClusterState(cluster())
    long, short = ready(state, tokens=(200, 5)), ready(state, tokens=(100, 50))
    assert in_order(Dynamo().plan(state.snapshot(0.0))) == [long, short]
    assert in_order(Dynamo(queue="wspt").plan(state.snapshot(0.0))) == [short, long]


def test_hexgen_flow_weighs_speed_against_queues():
    # P0 takes 20 ms and is busy until 500; P1 takes 110 ms and is idle.
    state = ClusterState(cluster((profile(), profile(prefill=(10.0, 1.0))), (profile(),)))
    ready(state)
    state.prefill_batch(0.0, 0, 500.0)
    assert HexgenFlow(alpha=1.0).plan(state.snapshot(0.0)).prefill.tolist() == [0]
    assert HexgenFlow(alpha=0.0).plan(state.snapshot(0.0)).prefill.tolist() == [1]


def test_an_idle_replica_steals_what_waits_behind_others():
    # Both calls wait at P1. At 50 ms P0 has not been idle for long; at 200 it has, and takes the one behind.
    state = ClusterState(cluster((profile(), profile()), (profile(),)))
    slots = [ready(state), ready(state)]
    snapshot = state.snapshot(0.0)
    placed = replace(Saga().plan(snapshot), prefill=np.array([1, 1]))
    adopt(state, placed)
    state.prefill_started(0.0, slots[0], 1)
    state.prefill_batch(0.0, 1, 1000.0)
    third = ready(state, 1.0)
    adopt(state, replace(Saga().plan(state.snapshot(1.0)), prefill=np.array([1, 1])))
    assert state.prefill[[slots[1], third]].tolist() == [1, 1]
    kept = build_policy("cache-aware").plan(state.snapshot(200.0))
    assert kept.prefill.tolist() == [1, 1]
    assert sorted(Saga().plan(state.snapshot(200.0)).prefill.tolist()) == [0, 0]


def test_paused_programs_fill_the_tightest_decode_replica():
    # Nothing is admitted at threshold 0. D1 is faster, D0 has less room.
    state = ClusterState(cluster(decode=(profile(decode=(14.0, 0.0, 0.0)), profile()), kv_tokens=(1_600, 3_200)))
    ready(state)
    snapshot = state.snapshot(0.0)
    assert ThunderAgent(threshold=0.0).plan(snapshot).decode.tolist() == [0]
    assert ThunderAgent(threshold=0.0, best_fit=False).plan(snapshot).decode.tolist() == [1]
    assert ThunderAgent(threshold=0.9).plan(snapshot).decode.tolist() == [1]


def test_a_router_sees_the_calls_it_has_just_dispatched():
    # Four equal calls at once on two equal prefill replicas: two go to each, whatever the router's load is.
    state = ClusterState(cluster((profile(), profile()), (profile(), profile())))
    for _ in range(4):
        ready(state)
    for name in ("cache-aware", "dynamo", "mooncake", "llumnix-pd", "splitwise", "hexgen-flow", "saga"):
        plan = build_policy(name).plan(state.snapshot(0.0))
        assert sorted(plan.prefill.tolist()) == [0, 0, 1, 1], name


# -- memory -----------------------------------------------------------------------------------------------------------


def test_history_adds_up_service_without_waiting_and_forgets_workflows():
    policy = AutellixPlas()
    state = ClusterState(cluster())
    flow = state.workflow_open(0.0, "w")
    first = ready(state, workflow=flow, tokens=(100, 10))
    adopt(state, policy.plan(state.snapshot(0.0)))
    done(state, policy, [first], 500.0)  # waits for 500 ms, is served for 132
    history = policy._history
    history.observe(state.snapshot(640.0))
    assert history.attained_ms[flow] == pytest.approx(132.0)
    assert history.done_ms[flow] == pytest.approx(632.0)
    state.workflow_close(640.0, flow)
    again = state.workflow_open(640.0, "x", arrival_ms=0.0)  # the same slot and even the same arrival
    assert again == flow
    ready(state, 640.0, workflow=again)
    _, replaced = history.observe(state.snapshot(640.0))
    assert replaced.tolist() == [flow]
    assert history.attained_ms[flow] == 0.0
    assert np.isnan(history.done_ms[flow])


class Watching:
    """Workflow-FCFS that remembers what a `History` tells."""

    name, replans = "watching", False

    def __init__(self):
        self.inner, self.history, self.service_ms = build_policy("workflow-fcfs"), History(), []

    def plan(self, snapshot):
        completed, _ = self.history.observe(snapshot)
        self.service_ms += completed.service_ms.tolist()
        return self.inner.plan(snapshot)


def test_remembered_service_agrees_with_what_the_simulator_measured():
    # The policy never sees completions; the simulator's records have every call's true times. Calls that end after the
    # last reveal are never seen to go.
    on, workload = load_cluster("demo"), generate("text2sql", 25, 5)
    policy = Watching()
    result = simulate(on, workload, PlacementEngine(on, policy, rehearse=False), predictor="oracle", seed=5)
    records = list(result.records())
    served = [r.transfer_end_ms - r.prefill_start_ms + r.done_ms - r.decode_start_ms for r in records]
    last_reveal = max(r.ready_ms for r in records)
    seen = [ms for ms, r in zip(served, records, strict=True) if r.done_ms <= last_reveal]
    assert len(policy.service_ms) == len(seen)
    assert sum(policy.service_ms) == pytest.approx(sum(seen), rel=0.05)


# -- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: WorkflowEdf(alpha=0.0), "alpha"),
        (lambda: Mdd(alpha=float("nan")), "alpha"),
        (lambda: WorkflowAtc(patience=0.0), "patience"),
        (lambda: Levels(count=0), "count"),
        (lambda: Levels(beta=-1.0), "beta"),
        (lambda: CacheAware(cache_threshold=1.5), "cache_threshold"),
        (lambda: CacheAware(balance_rel=0.0), "balance_rel"),
        (lambda: Continuum(eta=0.0), "eta"),
        (lambda: Dynamo(queue="lifo"), "queue"),
        (lambda: HexgenFlow(alpha=-0.1), "alpha"),
        (lambda: HexgenFlow(slo_scale=0.0), "slo_scale"),
        (lambda: LlumnixPd(headroom=2.0), "headroom"),
        (lambda: LlumnixPd(tpot_scale=float("inf")), "tpot_scale"),
        (lambda: Mooncake(tbt_scale=0.0), "tbt_scale"),
        (lambda: Saga(window_ms=0.0), "window_ms"),
        (lambda: ThunderAgent(threshold=1.1), "threshold"),
    ],
)
def test_parameters_out_of_range_are_named(build, field):
    with pytest.raises(InputError, match=rf"^{field} = .*expected"):
        build()
