"""Every component there is, on epochs whose optimum is known and on random ones; and that one more is one more file."""

from math import isnan

import pytest
from conformance.epochs import EPOCHS
from epoch_problems import FEATURES, brute_force, hint_within_caps, make_problem, random_decision, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve import components
from hexsolve.backends import Limits
from hexsolve.components._formulated import solve_formulated
from hexsolve.components.cpsat_window import window_size
from hexsolve.errors import InputError
from hexsolve.proposal import Proposal
from hexsolve.solve import Status, solve
from hexsolve_models import cost, earliest_finish, violations

NAMES = components.names()
LIMITS = Limits(wall_ms=None, deterministic=0.05, seed=0, workers=1)
SEEDS = st.integers(0, 10**6)


def ask(name, problem, hint, limits=LIMITS):
    """What a component answers, or a skip if it needs a formulation that is not there."""
    try:
        return components.run(name, problem, hint, limits)
    except (ModuleNotFoundError, ValueError) as error:
        if "hexsolve_models.formulations" in str(error) or "formulation" in str(error):
            pytest.skip(f"{name}: {error}")
        raise


def assert_true(problem, proposal, optimum=None):
    """Whatever it says of decisions and bounds is so."""
    if proposal.decision is not None:
        assert violations(problem, proposal.decision) == []
        price = cost(problem, proposal.decision)
        if not isnan(proposal.claimed):
            assert price <= proposal.claimed
            assert proposal.status != "OPTIMAL" or price == proposal.claimed
        assert optimum is None or price >= optimum
    if optimum is not None:
        assert proposal.bound <= optimum
    assert proposal.status != "INFEASIBLE"


@pytest.mark.parametrize("epoch", EPOCHS, ids=lambda epoch: epoch.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_epochs_worked_out_by_hand(name, epoch):
    problem, optimum = epoch()
    # A list schedule may break a cap: caps come with a decision that meets them.
    hint = hint_within_caps(problem) if problem.caps else earliest_finish(problem, range(problem.num_calls))
    proposal = ask(name, problem, hint)
    assert_true(problem, proposal, optimum)
    result = solve(problem, deterministic=0.05, hint=hint, steps=[name])
    assert result.bound <= optimum <= result.objective <= cost(problem, hint)
    assert not result.stop_reason.detail.startswith(name)


@pytest.mark.parametrize("name", NAMES)
@given(SEEDS, st.integers(1, 4), st.sets(st.sampled_from(FEATURES)))
@settings(max_examples=25, deadline=None)
def test_random_problems_against_enumeration(name, seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    assert_true(problem, ask(name, problem, hint_within_caps(problem)), brute_force(problem)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_larger_problems_and_no_hint(name, seed):
    problem = random_problem(seed, 8, 3, 3, ("crowding", "late"))
    for hint in (random_decision(problem, seed), None):
        assert_true(problem, ask(name, problem, hint, Limits(None, 0.02, seed, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_next_to_no_time_is_an_answer_too(name):
    problem = random_problem(2, 8, 3, 3)
    hint = random_decision(problem, 2)
    for limits in (Limits(0.0, None, 0, 1), Limits(1.5, None, 0, 1), Limits(None, 0.0, 0, 1)):
        proposal = ask(name, problem, hint, limits)
        assert_true(problem, proposal)
        assert proposal.decision is not None or proposal.detail or proposal.status


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_answer(name):
    problem = random_problem(4, 7, 3, 3, ("crowding",))
    hint = random_decision(problem, 4)
    first, second = (ask(name, problem, hint, Limits(None, 0.02, 5, 1)) for _ in range(2))
    assert (first.decision is None) == (second.decision is None)
    assert first.decision == second.decision
    assert (first.bound, first.status, first.work) == (second.bound, second.status, second.work)


@pytest.mark.parametrize("name", NAMES)
def test_every_component_says_what_it_is(name):
    module = components.load(name)
    assert isinstance(module.IS_NATIVE, bool)
    assert module.__doc__.strip()


def test_cpsat_full_proves_what_it_finds():
    problem, optimum = EPOCHS[0]()
    proposal = components.run("cpsat_full", problem, None, Limits(None, 5.0, 0, 1))
    assert (proposal.status, proposal.claimed, proposal.bound) == ("OPTIMAL", optimum, optimum)
    assert proposal.build_ms > 0


def test_the_local_search_counts_its_work_and_says_nothing_of_bounds():
    problem = random_problem(4, 7, 3, 3)
    proposal = components.run("local_search", problem, None, Limits(None, 1e-3, 0, 1))
    assert (proposal.work, proposal.bound, proposal.status) == (1e-3, float("-inf"), "")
    assert isnan(proposal.claimed)
    assert proposal.detail.startswith("500 moves")
    assert components.run("local_search", problem, None, Limits(None, None, 0, 1)).work == 1.0  # ends by itself


def test_windows_grow_with_time_and_shrink_with_replicas():
    small, large = random_problem(0, 4, 2, 2), random_problem(0, 4, 8, 8)
    sizes = [window_size(small, wall_ms) for wall_ms in (1.0, 10.0, 50.0, 1000.0, None)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert 1 <= window_size(large, 10.0) < window_size(small, 10.0)


def test_no_time_left_after_building_is_told():
    problem = random_problem(0, 4)
    proposal = solve_formulated(
        problem, None, Limits(100.0, None, 0, 1), "cpsat_full", None, reserve_ms=lambda left_ms: left_ms
    )
    assert proposal.decision is None
    assert proposal.detail.startswith("0.0 ms would be left after building for ")


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"component = 'none': expected one of cpsat_full, .*local_search"):
        components.load("none")


def test_names_are_found_without_importing():
    assert set(NAMES) >= {"cpsat_full", "local_search"}
    assert not [name for name in NAMES if name.startswith("_")]
    assert list(NAMES) == sorted(NAMES)


# -- a new component is one new file -----------------------------------------------------------------------------------

_NEW = '''"""A component that a newcomer has written."""

from hexsolve.proposal import Proposal
from hexsolve_models import earliest_finish

IS_NATIVE = False


def run(problem, hint, limits):
    return Proposal(earliest_finish(problem, range(problem.num_calls)), detail="hello")
'''


@pytest.fixture
def forget_names():
    components.names.cache_clear()
    components.load.cache_clear()
    yield
    components.names.cache_clear()
    components.load.cache_clear()


def test_a_new_file_is_a_new_component(tmp_path, monkeypatch, forget_names):
    (tmp_path / "newcomer.py").write_text(_NEW)
    (tmp_path / "_helper.py").write_text('"""Not a component."""\n')
    monkeypatch.setattr(components, "__path__", [*components.__path__, str(tmp_path)])
    assert set(components.names()) == {*NAMES, "newcomer"}
    problem = make_problem([[5], [2]], [[1], [1]])
    assert isinstance(components.run("newcomer", problem, None, LIMITS), Proposal)
    result = solve(problem, steps=["newcomer"], deterministic=0.1, hint=earliest_finish(problem, [0, 1]))
    assert ("newcomer", 0.0, "hello") in result.work or result.status is Status.OPTIMAL
    components.warm_up()  # one without `warm_up` has nothing to load
