"""Studies: how an engine is wired, what a row says, where a workload comes from, what the report adds up."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.catalog import load_cluster
from hexsolve.cluster import Cluster
from hexsolve.engine import PlacementEngine
from hexsolve.errors import InputError
from hexsolve.policies.hexagent import HexAgent
from hexsolve.policies.solver import SolverPolicy
from hexsolve.policies.workflow_atc import WorkflowAtc
from hexsolve.recording import Recorder
from hexsolve.sim import Fault, SimOptions, simulate, standalone_makespans
from hexsolve.study import (
    ArrivalChoice,
    Comparison,
    EngineOptions,
    Run,
    build_engine,
    build_workload,
    certify,
    check_fits,
    parse_arrivals,
    run_policy,
    standalone_ms,
)
from hexsolve.study.report import differences, document, interval, markdown, summary
from hexsolve.workflow import Call, Workflow, Workload


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster("demo")


def row(policy: str, stretches: list[float], seed: int = 0, **more: object) -> Run:
    base = Run(policy, "demo", "w", seed, 7, 1.0, np.array(stretches), np.array([1.0, 3.0]), {}, {}, {}, 0.5)
    return replace(base, **more)


# -- engines ----------------------------------------------------------------------------------------------------------


def test_list_policies_decide_at_once(cluster: Cluster) -> None:
    engine = build_engine(cluster, "hexagent")
    slot = engine.state.workflow_open(0.0, "w")
    for name in "ab":
        engine.state.call_ready(0.0, slot, name, input_tokens=100, predicted_output_tokens=10)
    engine.decide(0.0)
    assert engine.next_wakeup_ms() == math.inf


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_solver_plans_while_greedy_decides(cluster: Cluster, deterministic: bool) -> None:
    engine = build_engine(cluster, "solver", EngineOptions(30.0, 0.0, deterministic))
    assert isinstance(engine.policy, SolverPolicy)
    assert engine.policy.budget_ms == 30.0
    assert engine.policy.deterministic == (0.03 if deterministic else None)
    slot = engine.state.workflow_open(0.0, "w")
    for name in "ab":
        engine.state.call_ready(0.0, slot, name, input_tokens=100, predicted_output_tokens=10)
    assert len(engine.decide(0.0)) == 2
    lands_ms = engine.next_wakeup_ms()
    assert lands_ms == 30.0 if deterministic else 0.0 < lands_ms < math.inf


def test_the_objective_of_a_solver_can_be_tuned(cluster: Cluster) -> None:
    own = SolverPolicy().params
    assert EngineOptions().tuned(own) == own
    tuned = build_engine(cluster, "solver", EngineOptions(exponent=4, urgency=0.0)).policy
    assert isinstance(tuned, SolverPolicy)
    assert tuned.params == replace(own, exponent=4, urgency=0.0)
    late = build_engine(cluster, "solver-deadline", EngineOptions(target=3.0)).policy
    assert isinstance(late, SolverPolicy)
    assert late.params == replace(own, target=3.0, margin=0.0)
    assert late.fallback == WorkflowAtc(3.0)


_WRONG = [{"budget_ms": 0.0}, {"budget_ms": math.nan}, {"epoch_ms": -1.0}, {"epoch_ms": math.inf}]


@pytest.mark.parametrize("options", [*_WRONG, {"exponent": 0}, {"urgency": -1.0}, {"target": 0.0}])
def test_engine_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        EngineOptions(**options)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_lone_workflow_has_stretch_one(cluster: Cluster) -> None:
    # Alone is what H_w means: hexagent's stretch is exactly 1, and no other list policy is much off.
    calls = (Call("a", 900, 50), Call("b", 1200, 30, ("a",)), Call("c", 700, 40, ("a",)))
    workload = Workload("one", (Workflow("w", "", 0.0, calls),))
    alone_ms = standalone_ms(cluster, workload)
    run = run_policy(cluster, workload, "hexagent", alone_ms)
    assert run.stretches.tolist() == [1.0]
    assert (run.num_workflows, run.num_calls, run.req95, run.mean_stretch) == (1, 3, 1.0, 1.0)
    assert run.end_ms == alone_ms[0]
    assert run.anomalies == {}


def test_a_row_agrees_with_the_simulator(cluster: Cluster) -> None:
    workload = build_workload("text2sql", 6, 4, cluster=cluster, rate_per_s=0.5)
    run = run_policy(cluster, workload, "workflow-fcfs", standalone_ms(cluster, workload))
    result = simulate(cluster, workload, build_engine(cluster, "workflow-fcfs"))
    alone_ms = standalone_makespans(cluster, workload, lambda c: PlacementEngine(c, HexAgent(), rehearse=False))
    assert run.stretches == pytest.approx(result.response_ms / alone_ms)
    assert len(run.decision_ms) == result.counters.decisions == run.counters["decisions"]
    assert run.attainment(2.0) == np.mean(run.stretches <= 2.0)
    assert run.calls_per_cpu_s > 0


def test_h_w_knows_no_faults(cluster: Cluster) -> None:
    workload = build_workload("text2sql", 2, 4, cluster=cluster, rate_per_s=0.5)
    faults = SimOptions(faults=(Fault(1.0, "decode", 0, "down"),))
    assert standalone_ms(cluster, workload, options=faults).tolist() == standalone_ms(cluster, workload).tolist()


def test_progress_only_grows(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr("hexsolve.study.run.time.monotonic", lambda: float(next(ticks)))
    workload = build_workload("text2sql", 6, 4, cluster=cluster, rate_per_s=0.5)
    seen: list[int] = []
    run_policy(cluster, workload, "hexagent", standalone_ms(cluster, workload), on_progress=seen.append)
    assert seen == sorted(seen)
    assert 0 <= seen[0] < seen[-1] <= 6


# -- comparisons ------------------------------------------------------------------------------------------------------


def test_policies_of_a_seed_meet_the_same_workload(cluster: Cluster) -> None:
    workloads = {seed: build_workload("text2sql", 4, seed, cluster=cluster, load=1.0) for seed in (1, 2)}
    comparison = Comparison(cluster, workloads, ("hexagent", "round-robin"), predictor="noisy:0.5")
    runs, recordings = comparison.run(record=True)
    assert [(run.seed, run.policy) for run in runs] == [
        (1, "hexagent"),
        (1, "round-robin"),
        (2, "hexagent"),
        (2, "round-robin"),
    ]
    assert [run.num_calls for run in runs] == [w.num_calls for w in workloads.values() for _ in range(2)]
    assert {name: len(recording.spans["workflow"]) for name, recording in recordings.items()} == {
        "hexagent": 4,
        "round-robin": 4,
    }


@pytest.mark.parametrize("wrong", [{"policies": ("fifo",)}, {"predictor": "noisy"}, {"policies": ()}])
def test_a_comparison_is_checked_before_it_runs(cluster: Cluster, wrong: dict[str, object]) -> None:
    workloads = {0: build_workload("text2sql", 2, 0, cluster=cluster)}
    with pytest.raises(InputError):
        Comparison(**{"cluster": cluster, "workloads": workloads, "policies": ("hexagent",)} | wrong)  # type: ignore[arg-type]


# -- workloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> str:
    lines = [
        {"id": name, "calls": [{"id": 0, "prompt": 100 + number, "out": 5, "deps": []}]}
        for number, name in enumerate("abc")
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path / "t.jsonl")


def test_a_file_is_drawn_in_whole_passes(cluster: Cluster, trace: str) -> None:
    workload = build_workload(trace, 8, 3, cluster=cluster, rate_per_s=1.0)
    names = [workflow.workflow_id for workflow in workload.workflows]
    assert sorted(names[:3]) == ["a", "b", "c"]
    assert sorted(names[3:6]) == ["a#2", "b#2", "c#2"]
    assert all(name.endswith("#3") for name in names[6:])
    again = build_workload(trace, 8, 3, cluster=cluster, rate_per_s=1.0)
    assert again.digest() == workload.digest()
    orders = {
        tuple(w.workflow_id for w in build_workload(trace, 3, seed, cluster=cluster, rate_per_s=1.0).workflows)
        for seed in range(12)
    }
    assert len(orders) > 1


def test_load_sets_the_rate(cluster: Cluster) -> None:
    # Twice the load is twice the rate: the same gaps, half as long.
    slow, fast = (build_workload("text2sql", 20, 1, cluster=cluster, load=load) for load in (0.5, 1.0))
    pairs = zip(slow.workflows, fast.workflows, strict=True)
    assert all(a.arrival_ms == pytest.approx(2 * b.arrival_ms, abs=0.01) and a.calls == b.calls for a, b in pairs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--load"),
        ({"num_workflows": 4}, "at most 3"),
        ({"num_workflows": 0}, ">= 1"),
        ({"rate_per_s": 1.0, "load": 1.0}, "one of the two"),
        ({"rate_per_s": math.inf}, "finite"),
        ({"load": -1.0}, "> 0"),
        ({"arrivals": ArrivalChoice("bursty", 3.0)}, "--rate or --load"),
    ],
)
def test_workloads_that_are_left_open_or_wrong(
    cluster: Cluster, trace: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        build_workload(trace, **{"num_workflows": None, "seed": 0, "cluster": cluster} | options)  # type: ignore[arg-type]


def test_a_burst_arrives_at_once(cluster: Cluster, trace: str) -> None:
    workload = build_workload(trace, None, 0, cluster=cluster, arrivals=parse_arrivals("burst"))
    assert [workflow.arrival_ms for workflow in workload.workflows] == [0.0, 0.0, 0.0]


@given(st.text(max_size=12))
def test_arrival_texts_are_understood_or_refused(text: str) -> None:
    try:
        choice = parse_arrivals(text)
    except InputError as error:
        message = str(error)
    else:
        assert choice.kind in text
        return
    assert "arrivals" in message


def test_a_call_that_fits_nowhere_is_named(cluster: Cluster) -> None:
    workload = Workload("big", (Workflow("w7", "", 0.0, (Call("c3", 1_185_770, 7),)),))
    with pytest.raises(InputError, match=r"'w7'.*'c3'.*1185776"):
        check_fits(cluster, workload, SimOptions())
    fitting = Workload("fits", (Workflow("w7", "", 0.0, (Call("c3", 1_185_770, 6),)),))
    check_fits(cluster, fitting, SimOptions())


# -- report -----------------------------------------------------------------------------------------------------------


def test_intervals_by_hand() -> None:
    assert interval([2.0]) == interval([2.0, 2.0]).__class__(2.0, 2.0, 2.0)
    found = interval([1.0, 3.0])
    # Resamples of two values are (1,1), (1,3), (3,1), (3,3): means 1, 2, 2, 3, so the ends are the extremes.
    assert (found.mean, found.low, found.high) == (2.0, 1.0, 3.0)


@given(st.lists(st.floats(0.1, 100.0), min_size=1, max_size=6))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    found = interval(values)
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values) + 1e-9


def test_differences_are_paired_with_hexagent() -> None:
    runs = [row("solver", [2.0], 0), row("hexagent", [1.0], 0), row("solver", [5.0], 1), row("hexagent", [3.0], 1)]
    (difference,) = differences(runs)
    assert (difference["policy"], difference["minus"], difference["req95"]["mean"]) == ("solver", "hexagent", 1.5)
    assert [entry["req95"]["mean"] for entry in summary(runs)] == [3.5, 2.0]


def test_the_table_in_markdown() -> None:
    outcomes = {"better": 3, "better_optimal": 1, "failed: ModelError": 2, "not_called: few": 5, "plan adopted": 4}
    text = markdown([row("solver", [1.0, 2.5], outcomes=outcomes, anomalies={"clock: went backwards": 1})])
    assert "| solver | 2.50 | 2.50 | 1.75 | 50% | 50% | 100% | 100% | 50% | 2 / 3 |" in text
    assert "better 4, not called 5, failed 2, adopted 4" in text
    assert "failed: ModelError (2)" in text
    assert "clock: went backwards (1)" in text


def test_the_document_is_plain_json(cluster: Cluster) -> None:
    workload = Workload("w", (Workflow("w", "", 0.0, (Call("a", 1, 1),)),))
    made = document([row("hexagent", [1.0, 4.0])], {"seed": 0}, cluster, {0: workload}, (2.0, 4.5), 2.0)
    again = json.loads(json.dumps(made, allow_nan=False))
    assert again["runs"][0]["attainment"] == {"2": 0.5, "4.5": 1.0}
    assert again["runs"][0]["decisions"] == {"count": 2, "p50_ms": 2.0, "p99_ms": pytest.approx(2.98), "max_ms": 3.0}
    assert again["inputs"]["cluster"]["sha256"] == cluster.digest()
    assert again["inputs"]["workloads"] == [{"name": "w", "seed": 0, "sha256": workload.digest()}]
    assert again["runs"][0]["sim_calls_per_s"] == 14.0


# -- certificates -----------------------------------------------------------------------------------------------------


def test_a_certificate_bounds_every_policy(cluster: Cluster) -> None:
    engine = build_engine(cluster, "hexagent")
    for number in range(6):
        slot = engine.state.workflow_open(0.0, f"w{number}")
        engine.state.call_ready(0.0, slot, "a", input_tokens=500 + 900 * number, predicted_output_tokens=60)
    snapshot = engine.state.snapshot(0.0)
    found = {
        policy: certify(snapshot, build_engine(cluster, policy).policy.plan(snapshot))
        for policy in ("round-robin", "hexagent", "workflow-fcfs")
    }
    for certificate in found.values():
        assert certificate is not None
        assert 0 < certificate.bound <= certificate.objective
        assert 0 <= certificate.gap < 1
        assert certificate.calls == 6
    assert found["hexagent"] is not None
    assert found["hexagent"].objective == found["hexagent"].greedy


def test_nothing_waiting_has_no_certificate(cluster: Cluster) -> None:
    snapshot = build_engine(cluster, "hexagent").state.snapshot(0.0)
    assert certify(snapshot, HexAgent().plan(snapshot)) is None


def test_a_recorder_is_an_engine_for_the_simulator(cluster: Cluster) -> None:
    engine = build_engine(cluster, "hexagent")
    recorder = Recorder(engine, cluster)
    assert recorder.needs_decision("call_ready") is engine.needs_decision("call_ready") is True
    assert recorder.next_wakeup_ms() == math.inf
