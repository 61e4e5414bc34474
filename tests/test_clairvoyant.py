"""Clairvoyant schedules: what is carried out is what was scheduled, and the search reports what it can repeat."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve.catalog import load_cluster
from hexsolve.clairvoyant import Limits, Schedule, find_schedules, foresee, parse_objective, replay
from hexsolve.clairvoyant.objectives import OBJECTIVES
from hexsolve.clairvoyant.rules import orders, sacrifices, slack_key
from hexsolve.errors import InputError
from hexsolve.offline import offline_problem
from hexsolve.sim import mean_stretch, required_scale, stretches
from hexsolve.study import build_workload, run_policy, standalone_ms

CLUSTER = load_cluster("demo")
WORKLOAD = build_workload("text2sql", 8, 7, cluster=CLUSTER, load=1.2)
ALONE = standalone_ms(CLUSTER, WORKLOAD)
AHEAD = foresee(offline_problem(WORKLOAD, CLUSTER, ALONE))
NUM_CALLS, NUM_WORKFLOWS = WORKLOAD.num_calls, 8


def run(schedule):
    return replay(CLUSTER, WORKLOAD, AHEAD, schedule)


def simulated(node):
    result = run(node.schedule(AHEAD))
    return stretches(result.arrival_ms, result.finish_ms, ALONE)


def search(seed=0, runs=40, names=("req95", "mean_stretch", "late:1.5"), **more):
    objectives = [parse_objective(name) for name in names]
    return find_schedules(AHEAD, simulated, objectives, Limits(runs=runs), num_replicas=(2, 2), seed=seed, **more)


# -- foresight ---------------------------------------------------------------------------------------------------------


def test_the_longest_tail_of_a_workflow_is_no_longer_than_the_workflow_alone():
    longest = np.maximum.reduceat(AHEAD.tail, AHEAD.first[:-1])
    assert (longest <= AHEAD.reference).all()
    assert (longest > 0.3 * AHEAD.reference).all()  # and it is not nothing


def test_tails_grow_towards_the_roots():
    for w, workflow in enumerate(WORKLOAD.workflows):
        for child, parents in enumerate(workflow.parent_indices()):
            for parent in parents:
                assert AHEAD.tail[AHEAD.first[w] + parent] > AHEAD.tail[AHEAD.first[w] + child]


# -- replay ------------------------------------------------------------------------------------------------------------


def test_every_call_is_served_once_and_the_same_schedule_gives_the_same_run():
    schedule = Schedule.by_key(slack_key(AHEAD, 1.5), NUM_WORKFLOWS)
    once, again = run(schedule), run(schedule)
    assert once.num_calls == NUM_CALLS
    assert once.finish_ms.tolist() == again.finish_ms.tolist()


def test_pinned_calls_run_where_they_are_pinned():
    rng = np.random.default_rng(3)
    prefill, decode = rng.integers(2, size=NUM_CALLS), rng.integers(2, size=NUM_CALLS)
    result = run(Schedule(np.arange(NUM_CALLS, dtype=float), prefill, decode, np.zeros(NUM_WORKFLOWS)))
    for record in result.records():
        number = AHEAD.first[record.workflow] + record.call
        assert (record.prefill, record.decode) == (prefill[number], decode[number])


def test_the_sacrificed_start_after_all_others_are_through():
    hold = np.zeros(NUM_WORKFLOWS)
    hold[[1, 4]] = math.inf
    result = run(Schedule.by_key(slack_key(AHEAD, 1.5), NUM_WORKFLOWS, hold))
    through = max(result.finish_ms[w] for w in range(NUM_WORKFLOWS) if w not in (1, 4))
    starts = [record.prefill_start_ms for record in result.records() if record.workflow in (1, 4)]
    assert min(starts) >= through


def test_a_hold_in_ms_is_kept_to_the_instant():
    # Everything else is long gone at 10^7 ms: workflow 0 starts exactly then.
    hold = np.zeros(NUM_WORKFLOWS)
    hold[0] = 1e7
    result = run(Schedule.by_key(slack_key(AHEAD, 1.5), NUM_WORKFLOWS, hold))
    assert min(record.prefill_start_ms for record in result.records() if record.workflow == 0) == 1e7


def test_who_comes_first_is_served_sooner_than_if_it_came_last():
    # For one workflow a list schedule may have anomalies (Graham 1966); over all of them they do not matter.
    key = np.arange(NUM_CALLS, dtype=float)
    first = last = 0.0
    for favourite in range(NUM_WORKFLOWS):
        favoured = np.where(AHEAD.workflow == favourite, -1.0, key)
        first += run(Schedule.by_key(favoured, NUM_WORKFLOWS)).finish_ms[favourite]
        last += run(Schedule.by_key(-favoured, NUM_WORKFLOWS)).finish_ms[favourite]
    assert first < last


# -- objectives --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.5, 50), min_size=1, max_size=40))
def test_objectives_are_the_figures_that_studies_report(values):
    stretch = np.array(values)
    assert OBJECTIVES["req95"].value(stretch) == required_scale(stretch, 0.95)
    assert OBJECTIVES["req99"].value(stretch) == required_scale(stretch, 0.99)
    assert OBJECTIVES["max_stretch"].value(stretch) == stretch.max()
    assert OBJECTIVES["mean_stretch"].value(stretch) == mean_stretch(stretch)
    assert parse_objective("late:2").value(stretch) == (stretch > 2).sum()


@settings(max_examples=50)
@given(st.lists(st.floats(0.5, 50), min_size=2, max_size=30), st.data())
def test_a_guide_falls_when_somebody_who_counts_gets_better(values, data):
    stretch = np.sort(values)
    name = data.draw(st.sampled_from(["req95", "max_stretch", "mean_stretch"]))
    objective = OBJECTIVES[name]
    better = stretch.copy()
    better[data.draw(st.integers(0, objective.num_counted(len(stretch)) - 1))] *= 0.9
    assert objective.guide(better) <= objective.guide(stretch) * (1 + 1e-12)


@pytest.mark.parametrize("text", ["req90", "late", "late:x", "late:0", "late:inf", ""])
def test_what_is_no_objective_is_refused(text):
    with pytest.raises(InputError, match="expected req95"):
        parse_objective(text)


# -- rules -------------------------------------------------------------------------------------------------------------


def test_rules_number_every_call_and_sacrifice_as_many_as_they_may():
    assert all(key.shape == (NUM_CALLS,) and np.isfinite(key).all() for _, key, _ in orders(AHEAD))
    for count in range(NUM_WORKFLOWS):
        for name, dropped in sacrifices(AHEAD, count):
            assert len(set(dropped.tolist())) == count, name


# -- search ------------------------------------------------------------------------------------------------------------


def test_what_is_reported_can_be_repeated():
    for best in search().best.values():
        again = simulated(best.node)
        assert again.tolist() == best.stretches.tolist()
        assert best.objective.value(again) == best.value == best.steps[-1].value


def test_the_same_seed_takes_the_same_way():
    ways = [[(step.runs, step.value) for step in best.steps] for seed in (5, 5) for best in search(seed).best.values()]
    assert ways[: len(ways) // 2] == ways[len(ways) // 2 :]


def test_values_only_fall_and_more_runs_never_hurt():
    short, long = search(runs=15).best, search(runs=60).best
    for name, best in long.items():
        values = [step.value for step in best.steps]
        assert values == sorted(values, reverse=True)
        assert best.value <= short[name].value


def test_it_is_no_worse_than_what_was_known_and_better_than_the_greedy():
    hexagent = run_policy(CLUSTER, WORKLOAD, "hexagent", ALONE).stretches
    found = search(known={"hexagent": hexagent}).best
    assert found["req95"].value < required_scale(hexagent, 0.95)
    assert found["mean_stretch"].value < mean_stretch(hexagent)


def test_what_reaches_its_bound_is_not_searched_any_further():
    known = {"perfect": np.ones(NUM_WORKFLOWS)}
    found = search(known=known, names=("req95",), targets={"req95": 1.0})
    assert (found.runs, found.best["req95"].value, found.best["req95"].node) == (0, 1.0, None)


@pytest.mark.parametrize("limits", [{}, {"seconds": -1.0}, {"runs": math.nan}])
def test_a_search_needs_an_end(limits):
    with pytest.raises(InputError, match="limits"):
        Limits(**limits)
