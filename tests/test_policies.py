"""What every policy promises, and what some of them do in particular."""

import dataclasses

import numpy as np
import pytest
from small_states import adopt, busy_state, cluster, mixed_cluster, profile, push, ready

from hexsolve.errors import InputError
from hexsolve.policies import POLICIES, build_policy
from hexsolve.policies.solver import SolverPolicy
from hexsolve.policies.workflow_llf import WorkflowLlf
from hexsolve.predict import CallView
from hexsolve.snapshot import Snapshot
from hexsolve.state import ClusterState
from hexsolve.tables import CALL_DTYPE, WAIT_DECODE, WAIT_PREFILL

NAMES = sorted(POLICIES)


def policy_of(name):
    """The policy, reproducible where it uses a solver."""
    return SolverPolicy(deterministic=0.01) if name == "solver" else build_policy(name)


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
