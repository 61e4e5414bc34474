"""What every policy promises, and what some of them do in particular."""

import copy
import dataclasses
import threading

import numpy as np
import psutil
import pytest
from small_states import adopt, busy_state, cluster, mixed_cluster, profile, push, ready

from hexsolve.engine import PlacementEngine
from hexsolve.epoch import carry_over
from hexsolve.errors import InputError
from hexsolve.policies import POLICIES, build_policy
from hexsolve.policies.lookahead import Lookahead
from hexsolve.policies.solver import SolverPolicy
from hexsolve.policies.workflow_llf import WorkflowLlf
from hexsolve.predict import CallView
from hexsolve.snapshot import Snapshot
from hexsolve.solve import solve
from hexsolve.state import ClusterState
from hexsolve.tables import CALL_DTYPE, WAIT_DECODE, WAIT_PREFILL

NAMES = sorted(POLICIES)


def policy_of(name):
    """The policy, reproducible where it uses a solver."""
    policy = build_policy(name)
    return dataclasses.replace(policy, deterministic=0.01) if isinstance(policy, SolverPolicy) else policy


def busy(seed, kv_tokens=4_000):
    state = busy_state(seed, mixed_cluster(kv_tokens=kv_tokens))
    state.replica_down(state.clock_ms, "prefill", 1)
    return state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_every_waiting_call_gets_a_feasible_place_and_a_rank_of_its_own(name, seed):
    state = busy(seed)
    snapshot = state.snapshot(state.clock_ms)
    plan = policy_of(name).plan(snapshot)
    assert np.array_equal(plan.rows, snapshot.waiting)
    assert len(set(plan.rank.tolist())) == len(plan)
    calls = snapshot.calls[plan.rows]
    for i, call in enumerate(calls):
        assert snapshot.decodes["up"][plan.decode[i]] == 1
        assert call["kv_blocks"] <= snapshot.decodes["capacity_blocks"][plan.decode[i]]
        if call["stage"] == WAIT_PREFILL:
            assert plan.prefill[i] >= 0
            assert snapshot.prefills["up"][plan.prefill[i]] == 1
        else:
            assert (plan.prefill[i], plan.decode[i]) == (-1, call["decode"])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_snapshot_gives_the_same_plan(name):
    state = busy(1)
    first, second = (policy_of(name).plan(state.snapshot(state.clock_ms)) for _ in range(2))
    for column in ("prefill", "decode", "rank"):
        assert np.array_equal(getattr(first, column), getattr(second, column))


@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_only_a_replica_that_is_down_could_take_waits(name):
    state = ClusterState(cluster(decode=(profile(), profile()), kv_tokens=(320, 16_000)))
    small, large, third = ready(state), ready(state, tokens=(1000, 50)), ready(state)
    state.replica_down(0.0, "decode", 1)
    plan = policy_of(name).plan(state.snapshot(0.0))
    assert plan.slots.tolist() == [small, large, third]
    assert plan.decode.tolist() == [0, -1, 0]
    assert plan.prefill.tolist() == [0, -1, 0]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits(name):
    assert len(policy_of(name).plan(ClusterState(cluster()).snapshot(0.0))) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if not POLICIES[name].build().replans])
def test_a_policy_that_does_not_replan_keeps_its_placements_and_ranks(name):
    state = busy(2)
    policy = policy_of(name)
    first = policy.plan(state.snapshot(state.clock_ms))
    adopt(state, first)
    more = [ready(state, state.clock_ms + 5.0, tokens=(30, 5)) for _ in range(3)]
    second = policy.plan(state.snapshot(state.clock_ms + 5.0))
    old = ~np.isin(second.slots, more)
    for column in ("slots", "prefill", "decode", "rank"):
        assert np.array_equal(getattr(first, column), getattr(second, column)[old])


# -- no future --------------------------------------------------------------------------------------------------------


def test_nothing_a_policy_sees_could_hold_a_true_length_or_a_hidden_call():
    names = set(CALL_DTYPE.names) | {f.name for f in dataclasses.fields(Snapshot)}
    assert not {name for name in names if "output" in name or "true" in name or "future" in name}
    assert {"predicted_tokens", "restored_tokens", "input_tokens", "cached_tokens"} == {
        name for name in names if name.endswith("_tokens") and name != "held_tokens"
    }


def test_a_simulated_call_shows_policies_no_true_length():
    assert not [name for name in CallView._fields if "output" in name]


@pytest.mark.parametrize("name", NAMES)
def test_true_lengths_and_hidden_calls_do_not_change_a_plan(name):
    # One call has ended with 3 or 300 tokens at the same moment: nothing else that the state is told differs.
    plans = []
    for true_length in (3, 300):
        state = ClusterState(mixed_cluster())
        done = ready(state, tokens=(100, 20))
        adopt(state, policy_of(name).plan(state.snapshot(0.0)))
        push(state, done, 0.0, "decode")
        others = [ready(state, 10.0 + i, tokens=(60 + 70 * i, 10 + i)) for i in range(6)]
        state.call_done(50.0, done, true_length)
        plans.append(policy_of(name).plan(state.snapshot(50.0)))
        assert len(others) == len(plans[-1])
    first, second = plans
    for column in ("slots", "prefill", "decode", "rank", "finish_ms"):
        assert np.array_equal(getattr(first, column), getattr(second, column))


# -- particular policies ----------------------------------------------------------------------------------------------


def test_round_robin_takes_turns():
    state = ClusterState(cluster((profile(), profile()), (profile(), profile(), profile())))
    for _ in range(6):
        ready(state)
    plan = build_policy("round-robin").plan(state.snapshot(0.0))
    assert plan.prefill.tolist() == [1, 0, 1, 0, 1, 0]  # serials 1..6 modulo 2
    assert plan.decode.tolist() == [1, 2, 0, 1, 2, 0]
    assert np.all(np.diff(plan.rank) > 0)


def test_fcfs_serves_the_oldest_workflow_first_then_the_oldest_call():
    state = ClusterState(cluster())
    young = state.workflow_open(100.0, "young")
    old = state.workflow_open(100.0, "old", arrival_ms=0.0)
    a = ready(state, 100.0, workflow=young)
    b, c = ready(state, 101.0, workflow=old), ready(state, 102.0, workflow=old, name="b")
    plan = build_policy("workflow-fcfs").plan(state.snapshot(102.0))
    assert plan.slots[np.argsort(plan.rank)].tolist() == [b, c, a]


def test_fcfs_ranks_hold_for_clocks_in_unix_milliseconds():
    state = ClusterState(cluster(), clock_ms=1.8e12)
    slots = [ready(state, 1.8e12 + i) for i in range(3)]
    plan = build_policy("workflow-fcfs").plan(state.snapshot(1.8e12 + 3))
    assert plan.slots[np.argsort(plan.rank)].tolist() == slots
    assert np.all(plan.rank > 0)


def test_llf_serves_the_least_laxity_first():
    # alpha 2. Both arrived at 0. Short: (100, 10): H = 20 + 12 + 100 = 132, laxity 264 - 132 = 132.
    # Long: (100, 50): H = 532, laxity 532.
    state = ClusterState(cluster())
    long, short = ready(state), ready(state, tokens=(100, 10))
    plan = WorkflowLlf().plan(state.snapshot(0.0))
    assert plan.slots[np.argsort(plan.rank)].tolist() == [short, long]
    # The long one 450 ms older: its laxity is 532 - 450 = 82 by now, the short one's, revealed now, 132.
    state = ClusterState(cluster())
    long = ready(state)
    short = ready(state, 450.0, tokens=(100, 10))
    plan = WorkflowLlf().plan(state.snapshot(450.0))
    assert plan.slots[np.argsort(plan.rank)].tolist() == [long, short]


def test_hexagent_reorders_locked_calls_without_moving_them():
    state = ClusterState(cluster())
    slots = [ready(state), ready(state)]
    adopt(state, build_policy("hexagent").plan(state.snapshot(0.0)))
    for slot in slots:
        push(state, slot, 0.0, "wait")
    plan = build_policy("hexagent").plan(state.snapshot(600.0))
    assert np.all(state.stage[slots] == WAIT_DECODE)
    assert (plan.prefill.tolist(), plan.decode.tolist()) == ([-1, -1], [0, 0])


@pytest.mark.parametrize(
    "wrong",
    [{"budget_ms": 0.0}, {"budget_ms": float("nan")}, {"deterministic": 0.0}, {"workers": 0}, {"processes": -1}],
)
def test_solver_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SolverPolicy(**wrong)


# -- the solver policy -------------------------------------------------------------------------------------------------


def workers_of_this_process():
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def helper_threads():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("hexsolve")}


def test_due_dates_and_the_last_plan_are_further_hints():
    hints = []

    def recording(problem, *, hint, **options):
        hints.append((problem, list(hint)))
        return solve(problem, hint=hint, **options)

    policy = SolverPolicy(deterministic=0.001, solve=recording)
    state = busy(3)
    first = policy.plan(state.snapshot(state.clock_ms))
    adopt(state, first)
    ready(state, state.clock_ms, tokens=(70, 12))
    snapshot = state.snapshot(state.clock_ms)
    greedy = policy.fallback.plan(snapshot)
    policy.plan(snapshot)
    assert [len(given) for _, given in hints] == [3, 4]
    problem, (*_, carried) = hints[1]
    expected = carry_over(snapshot, greedy, first)
    positions = np.argsort(greedy.rank, kind="stable")
    assert np.array_equal(carried.prefill, expected.prefill[positions])
    assert np.array_equal(carried.decode, expected.decode[positions])
    assert problem.num_calls == len(snapshot.waiting)


def test_the_solver_gets_what_the_policy_was_told():
    asked = {}

    def recording(problem, **options):
        asked.update(options)
        return solve(problem, **options)

    state = busy(1)
    told = {"seed": 5, "workers": 2, "steps": ["local_search"]}
    SolverPolicy(budget_ms=200.0, solve=recording, **told).plan(state.snapshot(state.clock_ms))
    assert {name: asked[name] for name in told} == told
    assert asked["deterministic"] is None
    assert 0.0 <= asked["budget_ms"] < 200.0
    assert asked["pool"] is None  # the local search needs no worker


@pytest.mark.parametrize(
    ("options", "has_pool"),
    [
        ({"budget_ms": 50.0}, True),
        ({"budget_ms": 50.0, "processes": 0}, False),
        ({"budget_ms": 1.0}, False),
        ({"budget_ms": 50.0, "deterministic": 0.1}, False),
        ({"budget_ms": 50.0, "steps": ["local_search"]}, False),
        ({"budget_ms": 1.0, "steps": ["cpsat_full"]}, True),
    ],
)
def test_there_are_workers_where_a_native_solver_could_use_them(options, has_pool):
    policy = SolverPolicy(**options)
    assert (policy._pool is not None) == has_pool
    assert not workers_of_this_process()  # none is started before it is needed
    policy.close()


def test_without_processes_natives_run_here():
    state = busy(1)
    policy = SolverPolicy(budget_ms=2000.0, processes=0, steps=["cpsat_full"])
    policy.warm_up()
    plan = policy.plan(state.snapshot(state.clock_ms))
    assert [told.split(":")[0] for told in plan.receipt["components"]] == ["cpsat_full"]
    assert not workers_of_this_process()


def test_a_rehearsal_starts_the_workers_and_close_leaves_nothing():
    before = threading.active_count(), helper_threads()
    policy = SolverPolicy(budget_ms=1000.0, steps=["cpsat_full"])
    engine = PlacementEngine(mixed_cluster(), policy)
    assert len(workers_of_this_process()) == 1
    assert policy._pool.idle == 1
    assert not policy.outcomes
    state = busy(1)
    plan = policy.plan(state.snapshot(state.clock_ms))
    assert [told.split(":")[0] for told in plan.receipt["components"]] == ["local_search", "cpsat_full"]
    engine.close()
    policy.close()
    policy.close()
    assert not workers_of_this_process()
    assert (threading.active_count(), helper_threads()) == before


def test_a_closed_policy_goes_on_without_workers():
    policy = SolverPolicy(budget_ms=1000.0, steps=["cpsat_full"])
    policy.warm_up()
    policy.close()
    state = busy(1)
    plan = policy.plan(state.snapshot(state.clock_ms))
    assert plan.receipt["components"] == ["cpsat_full: the pool is closed"]
    assert not [name for name in policy.outcomes if name.startswith("failed")]
    assert len(plan) == len(state.snapshot(state.clock_ms).waiting)


def test_a_copy_has_the_same_settings_and_counts_for_itself():
    policy = SolverPolicy(budget_ms=50.0, seed=3)
    twin = copy.deepcopy(policy)
    assert twin._pool is not policy._pool
    assert twin._pool.size == policy._pool.size
    assert (twin.budget_ms, twin.seed, twin.params) == (50.0, 3, policy.params)
    state = busy(1)
    twin.plan(state.snapshot(state.clock_ms))
    assert sum(twin.outcomes.values()) == 1
    assert not policy.outcomes
    twin.close()
    policy.close()
    assert not workers_of_this_process()


def test_the_window_grows_with_the_budget_and_shrinks_with_replicas():
    state = busy(1)
    snapshot = state.snapshot(state.clock_ms)
    sizes = [SolverPolicy(budget_ms=ms, processes=0)._window(snapshot) for ms in (1.0, 5.0, 50.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    large = cluster((profile(),) * 64, (profile(),) * 64)
    assert SolverPolicy(budget_ms=5.0)._window(ClusterState(large).snapshot(0.0)) < sizes[1]
    assert SolverPolicy(deterministic=1.0)._window(snapshot) == len(snapshot.waiting)


def test_other_parameters_out_of_range_are_refused():
    with pytest.raises(InputError, match="alpha"):
        WorkflowLlf(alpha=0.0)
    with pytest.raises(InputError, match=r"expected one of .*hexagent"):
        build_policy("nope")


def test_names_and_labels():
    for name, info in POLICIES.items():
        assert info.name == name == info.build().name
        assert info.label in ("faithful", "adapted", "inspired", "ours")
        assert info.source


def test_lookahead_prefers_short_prefills_unless_others_are_late():
    # A call of (n, m) tokens takes 10 + n/10 ms of prefill, 2 + n/10 of transfer and 10·m of decode.
    state = ClusterState(cluster())
    long = ready(state, 0.0, tokens=(1000, 30))  # prefill 110, H 512
    short = ready(state, 0.0, name="b", tokens=(100, 50))  # prefill 20, H 532

    def first(now_ms, shortness):
        plan = Lookahead(shortness=shortness).plan(state.snapshot(now_ms))
        return plan.slots[np.argmin(plan.rank)]

    # Both have R = 1: 1 / 512 against 1 / 532, and over the roots of 110 and 20.
    assert first(0.0, 0.0) == long
    assert first(0.0, 0.5) == short
    # At 2000 ms both are at R = 4.9 and 4.76, a late one beside a fresh short one at 4.9 and 1.
    fresh = ready(state, 2000.0, name="c", tokens=(100, 50))
    assert first(2000.0, 0.5) == short
    plan = Lookahead().plan(state.snapshot(2000.0))
    assert plan.slots[np.argsort(plan.rank)].tolist() == [short, long, fresh]


def test_lookahead_refuses_what_is_out_of_range():
    for field, value in (("exponent", 0.0), ("wait", float("nan")), ("shortness", 1.5)):
        with pytest.raises(InputError, match=f"^{field} = .*expected"):
            Lookahead(**{field: value})
