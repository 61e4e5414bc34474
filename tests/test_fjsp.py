"""Flexible job shop: the reader's rules, and published optima through the offline CP-SAT formulation."""

import pytest

from benchmarks.bench_fjsp import DATA, chosen, instances
from hexsolve.errors import InputError
from hexsolve.io.fjsp import parse_fjsp, read_fjsp
from hexsolve_models.offline.goal import MAX_STRETCH
from hexsolve_models.offline.solve import solve

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published instances are not at {DATA}")

# Two jobs of two operations on two machines. J0: M1 3 or M2 5, then M2 2. J1: M1 4, then M1 1 or M2 6.
TWO_JOBS = "2 2 1.5\n2 2 1 3 2 5 1 2 2\n2 1 1 4 2 1 1 2 6\n"


def test_two_jobs_by_hand():
    # On M1: J0 3 and J1 4 + 1 make 8, but with J0 on M2 (5, then 2: 7) M1 has only J1's 5. So 7; M2 alone needs 5 + 2.
    problem = parse_fjsp(TWO_JOBS, "two")
    assert problem.prefill_ticks.tolist() == [[3, 5], [-1, 2], [4, -1], [1, 6]]
    assert (problem.edge_before.tolist(), problem.edge_after.tolist()) == ([0, 2], [1, 3])
    outcome = solve(problem, MAX_STRETCH, limit_s=60)
    assert (outcome.status, outcome.objective, outcome.bound) == ("OPTIMAL", 7, 7)


def test_machines_count_from_0_or_1():
    from_0 = "2 2\n2 2 0 3 1 5 1 1 2\n2 1 0 4 2 0 1 1 6\n"
    assert (parse_fjsp(from_0, "0").prefill_ticks == parse_fjsp(TWO_JOBS, "1").prefill_ticks).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line: jobs: expected a number, got the end"),
        ("1 x", "first line: machines: expected an integer >= 1, got 'x'"),
        ("1 2\n1 1 3 4", "operation 0: machine 3: expected 1..2"),
        ("1 2\n1 3 1 4 2 4 1 4", "job 0, operation 0: options: expected at most 2, got 3"),
        ("1 2\n2 1 1 4", "job 0, operation 1: options: expected a number, got the end"),
        ("1 2\n1 1 1 -4", "job 0, operation 0: duration: expected an integer >= 0, got '-4'"),
        ("1 2\n1 1 1 4 7", "expected the end after the last job, got '7'"),
    ],
)
def test_what_is_no_instance(text, message):
    with pytest.raises(InputError, match=message):
        parse_fjsp(text, "bad")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="expected a flexible job-shop instance"):
        read_fjsp(tmp_path / "no.fjs")
    (tmp_path / "two.fjs").write_text(TWO_JOBS, encoding="ascii")
    assert read_fjsp(tmp_path / "two.fjs").num_calls == 4


@needs_data
@pytest.mark.parametrize(
    ("name", "optimum"),
    [
        ("mk01", 40),
        ("mk03", 204),
        ("mk04", 60),
        ("mk08", 523),
        ("k1", 11),
        ("k2", 11),
        ("sfjs07", 397),
        ("e-la17", 707),
        ("r-la17", 646),
        ("v-la16", 717),
    ],
)
def test_published_optima_are_proved(name, optimum):
    instance = next(i for i in instances() if i.name == name)
    assert instance.optimum == optimum
    outcome = solve(parse_fjsp(instance.text, name), MAX_STRETCH, limit_s=120, workers=2)
    assert (outcome.status, outcome.objective, outcome.bound) == ("OPTIMAL", optimum, optimum)


@needs_data
def test_the_benchmark_has_sixty_instances():
    assert len(chosen(instances())) >= 60
