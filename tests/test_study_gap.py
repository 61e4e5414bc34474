"""The gap study: brackets hold every policy, nothing is computed twice, and all that is written says the same."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from hexsolve.catalog import load_cluster
from hexsolve.cli.app import app
from hexsolve.io import write_workload
from hexsolve.plot_gap import gap_pictures
from hexsolve.study.gap_bounds import BoundRecord
from hexsolve.study.gap_bracket import OBJECTIVES, BestRecord, BracketRow, Effort, StepRecord
from hexsolve.study.gap_epochs import EpochRow
from hexsolve.study.gap_report import markdown, sentences
from hexsolve.study.gap_results import by_place, document, epoch_figures, flat_gaps, gaps, profile
from hexsolve.study.gap_run import FOLDERS, Instance, run_gaps
from hexsolve.study.run import EngineOptions
from hexsolve.study.slo_cell import Cell, Load, Place, Row, Variant
from hexsolve.study.slo_pool import Crash, LocalPool
from hexsolve.study.slo_store import Store

DEMO = load_cluster("demo")
POLICIES = ("workflow-fcfs", "hexagent")
EFFORT = Effort(budget_s=1e6, exact_s=0.0, runs=25)  # by runs, so that it can be repeated


def place(workflows: int = 3, load: Load | None = None) -> Place:
    return Place(DEMO, "text2sql", workflows, load or Load("rho", 1.2))


def cells(*places: Place, seeds: int = 1) -> list[Cell]:
    engine = EngineOptions(5.0, deterministic=True)
    return [Cell(p, Variant(name, name, engine), 7 + s) for s in range(seeds) for p in places for name in POLICIES]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Instance]:
    store = Store(tmp_path_factory.mktemp("gap"), FOLDERS)
    return run_gaps(cells(place(), place(load=Load("burst"))), EFFORT, store, LocalPool(1), epochs_ms=1.0)


def by_hand(
    seed: int = 0, req95: float = 2.0, bound: float = 1.0, stretches: dict[str, list[float]] | None = None
) -> Instance:
    """One workflow on the demo cluster: all four objectives are its stretch."""
    rows = {name: Row("", stretches=list(s)) for name, s in (stretches or {"a": [3.0], "b": [2.5]}).items()}
    best = BestRecord(req95, "squeeze", [StepRecord(1.0, 3, 2.5, "b"), StepRecord(2.0, 9, req95, "squeeze")])
    record = BoundRecord(bound, 0.9, "decode", "the decode pool", 0.5)
    row = BracketRow(
        "", 1, 5, "d", dict.fromkeys(OBJECTIVES, record), dict.fromkeys(OBJECTIVES, best), bounds_s=1.0, search_s=3.0
    )
    return Instance(place(1), seed, rows, row)


# -- computing ---------------------------------------------------------------------------------------------------------


def test_nobody_is_below_the_bound_and_the_best_is_no_worse_than_any_policy(found: list[Instance]) -> None:
    assert [instance.errors for instance in found] == [{}, {}]
    for instance in found:
        for name, gap in gaps(instance).items():
            assert 0 < gap.bound <= gap.best, name
            assert set(gap.values) == set(POLICIES)
            assert all(gap.best <= value for value in gap.values.values())
            assert instance.bracket.bounds[name].path <= gap.bound


def test_bounds_hold_for_policies_that_do_not_know_lengths(tmp_path: Path) -> None:
    # Calls that outlive their prediction may be pushed back: then KV and decode work do not count in the bound.
    blind = Place(DEMO, "text2sql", 3, Load("burst"), predictor="noisy:0.8")
    [instance] = run_gaps(cells(blind), Effort(1e6, 0.0, 3), Store(tmp_path, FOLDERS), LocalPool(1))
    assert instance.errors == {}
    for gap in gaps(instance).values():
        assert gap.bound <= gap.best <= min(gap.values.values())


def test_a_bracket_by_runs_can_be_repeated(found: list[Instance], tmp_path: Path) -> None:
    again = run_gaps(cells(place()), EFFORT, Store(tmp_path, FOLDERS), LocalPool(1))
    first, second = found[0].bracket, again[0].bracket
    assert first.digest == second.digest
    for name in OBJECTIVES:
        assert first.best[name].value == second.best[name].value
        assert [(s.runs, s.value) for s in first.best[name].steps] == [
            (s.runs, s.value) for s in second.best[name].steps
        ]


def test_nothing_is_computed_twice_and_more_policies_make_another_bracket(tmp_path: Path) -> None:
    class Counting(LocalPool):
        def __init__(self) -> None:
            super().__init__(1)
            self.done: list[str] = []

        def map(self, function, tasks):
            for position, result in super().map(function, tasks):
                self.done.append(type(result).__name__)
                yield position, result

    store, pool = Store(tmp_path, FOLDERS), Counting()
    effort = Effort(budget_s=1e6, exact_s=0.0, runs=3)
    run_gaps(cells(place())[:1], effort, store, pool)
    assert pool.done == ["AloneRow", "Row", "BracketRow"]
    run_gaps(cells(place())[:1], effort, store, pool)
    assert len(pool.done) == 3
    run_gaps(cells(place()), effort, store, pool)
    assert pool.done[3:] == ["Row", "BracketRow"]
    run_gaps(cells(place()), Effort(budget_s=1e6, exact_s=0.0, runs=4), store, pool)
    assert pool.done[5:] == ["BracketRow"]


def test_an_error_becomes_a_row_and_the_report_names_it(tmp_path: Path) -> None:
    broken = Place(DEMO, str(tmp_path / "gone.jsonl"), 2, Load("rho", 1.0))
    (tmp_path / "gone.jsonl").write_text("{}\n")
    instances = run_gaps(cells(broken, place(2)), Effort(1e6, 0.0, 2), Store(tmp_path, FOLDERS), LocalPool(1))
    assert set(instances[0].errors) == {*POLICIES, "bracket"}
    assert not instances[1].errors
    text = markdown("x", EFFORT, instances)
    assert "## What failed" in text
    assert "gone" in text
    assert len(by_place(instances)) == 1
    assert gaps(instances[0]) == {}


def test_a_process_that_dies_becomes_an_error(tmp_path: Path) -> None:
    class Deadly(LocalPool):
        def map(self, function, tasks):
            for position, result in super().map(function, tasks):
                yield position, Crash("killed") if isinstance(result, BracketRow) else result

    instances = run_gaps(cells(place(2)), Effort(1e6, 0.0, 2), Store(tmp_path, FOLDERS), Deadly(1))
    assert instances[0].errors == {"bracket": "killed"}


# -- figures by hand ---------------------------------------------------------------------------------------------------


def test_gaps_by_hand() -> None:
    # Policy a has 3, the best is 2, the bound 1: at least 50 % and at most 200 % above optimal; b has 2.5: 25 %, 150 %.
    gap = gaps(by_hand())["req95"]
    assert (gap.above_best("a"), gap.above_bound("a")) == (0.5, 2.0)
    assert (gap.above_best("b"), gap.above_bound("b")) == (0.25, 1.5)
    assert (gap.width, gap.status) == (1.0, "bracket")
    assert gaps(by_hand(bound=2.0))["req95"].status == "proved optimal"


def test_means_over_seeds_by_hand() -> None:
    [over] = by_place([by_hand(0), by_hand(1, req95=2.5)])
    assert over.mean("req95", "best") == 2.25
    assert over.mean("req95", "above_best", "a") == pytest.approx((0.5 + 0.2) / 2)
    assert "at least 12.5% and at most 150.0%" in sentences(over)[0]  # b: (25 % + 0 %) / 2, and 150 % twice


def test_profiles_by_hand() -> None:
    # Ratios to the best known: a 1.5 and 1.2, b 1.25 and 1.
    places = by_place([by_hand(0), by_hand(1, req95=2.5)])
    curves = profile(places, "req95", np.array([1.0, 1.2, 1.25, 1.5]))
    assert curves["a"].tolist() == [0, 0.5, 0.5, 1]
    assert curves["b"].tolist() == [0.5, 0.5, 1, 1]


def test_who_did_not_run_is_within_no_ratio() -> None:
    places = by_place([by_hand(0), by_hand(1, stretches={"a": [2.0]})])
    assert profile(places, "req95", np.array([10.0]))["b"].tolist() == [0.5]


def test_epoch_figures_by_hand() -> None:
    # Gaps of the plan 0, 0.5; of the greedy 0.2, 0.6.
    row = EpochRow("", [3, 4], [8.0, 10.0], [10.0, 12.5], [8.0, 5.0])
    figures = epoch_figures([row])
    assert (figures["epochs"], figures["plan_proved_optimal"], figures["greedy_proved_optimal"]) == (2, 0.5, 0.0)
    assert figures["plan_gap_p50"] == 0.25
    assert figures["greedy_gap_p50"] == pytest.approx(0.4)
    assert epoch_figures([]) == {}


# -- what is written ---------------------------------------------------------------------------------------------------


def test_all_forms_say_the_same(found: list[Instance]) -> None:
    everything = json.loads(json.dumps(document("x", Effort(1.0), found)))
    assert everything["schema"] == "hexsolve.study.gap.v1"
    records = flat_gaps(found)
    assert len(records) == 2 * len(OBJECTIVES) * len(POLICIES)
    for record in records:
        [instance] = [i for i in everything["instances"] if i["load"]["label"] == record["load"]]
        there = instance["objectives"][record["objective"]]
        assert there["policies"][record["policy"]]["above_bound"] == record["above_bound"]
        assert there["bound"]["value"] == record["bound"]
    text = markdown("x", EFFORT, found)
    for over in by_place(found):
        assert f"{over.mean('req95', 'bound'):.3f}" in text
        assert all(sentence in text for sentence in sentences(over))
    assert "| HexAGenT's greedy |" in text


def test_pictures_are_pictures(found: list[Instance]) -> None:
    pictures = gap_pictures(found)
    assert {name.partition("-")[0] for name in pictures} == {"brackets", "progress", "profiles.png", "epochs.png"}
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert gap_pictures([]) == {}


def test_rows_survive_the_store(found: list[Instance]) -> None:
    for row in (found[0].bracket, found[0].epochs):
        assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row


def test_epochs_add_up(found: list[Instance]) -> None:
    row = found[0].epochs
    assert len(row.calls) == len(row.cost) == len(row.greedy) == len(row.bound) <= sum(row.outcomes.values())
    assert all(cost <= greedy for cost, greedy in zip(row.cost, row.greedy, strict=True))
    assert all(0 <= gap <= 1 for gap in row.gaps + row.greedy_gaps)


# -- command line ------------------------------------------------------------------------------------------------------


def hexsolve(*args: str) -> Result:
    return CliRunner().invoke(app, ["study", "gap", *args])


def test_one_command_for_a_trace_of_ones_own(tmp_path: Path) -> None:
    trace = tmp_path / "mine.jsonl"
    write_workload(place(3).build(7), trace)
    out = tmp_path / "out"
    command = [
        "--workload",
        str(trace),
        "--cluster",
        "demo",
        "--policies",
        "hexagent",
        "--budget-s",
        "0.5",
        "--jobs",
        "1",
    ]
    result = hexsolve(*command, "--out", str(out), "--quiet")
    assert result.exit_code == 0, result.output
    assert "mine on demo, recorded: The best policy, `hexagent`, is at least" in result.output
    assert "No scheduler can bring Req95 below" in result.output
    assert {path.name for path in out.iterdir()} >= {"gap.md", "gap.json", "rows.csv", "plots"}
    document = json.loads((out / "gap.json").read_text())
    [instance] = document["instances"]
    assert instance["num_workflows"] == 3
    assert all(math.isfinite(found["width"]) for found in instance["objectives"].values())
    again = hexsolve(*command, "--out", str(out), "--no-plots")
    assert again.exit_code == 0
    assert "brackets" not in again.output


@pytest.mark.parametrize(
    ("options", "loads"),
    [([], ["recorded"]), (["--burst"], ["burst"]), (["--loads", "0.5,2"], ["ρ 0.5", "ρ 2"])],
    ids=["as-recorded", "burst", "loads"],
)
def test_a_file_keeps_its_arrivals_unless_told_otherwise(options: list[str], loads: list[str], tmp_path: Path) -> None:
    write_workload(place(3).build(7), tmp_path / "mine.jsonl")
    write_workload(place(3, Load("burst")).build(7), tmp_path / "timeless.jsonl")
    common = ["--cluster", "demo", "--policies", "srpt", "--budget-s", "0.1", "--jobs", "1", "--no-plots", "--quiet"]
    sources = f"{tmp_path / 'mine.jsonl'},{tmp_path / 'timeless.jsonl'}"
    result = hexsolve("--workload", sources, *common, *options, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "gap.json").read_text())["instances"]
    labels = {name: [i["load"]["label"] for i in found if i["workload"] == name] for name in ("mine", "timeless")}
    assert labels == {"mine": loads, "timeless": loads if options else ["ρ 1"]}


def test_a_dry_run_computes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "none"
    result = hexsolve(
        "--workload", "text2sql,bfcl", "--cluster", "demo", "--loads", "0.7,1", "--seeds", "3", "--dry-run",
        "--workflows", "4", "--policies", "srpt,mdd", "--out", str(out),
    )  # fmt: skip
    assert result.output.startswith("12 instances, 24 runs of policies")
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--workload", "text2sql"], "cluster"),
        (["--workload", "nothing", "--cluster", "demo"], "expected a file or a name, got 'nothing'"),
        (["--workload", "text2sql", "--cluster", "nothing"], "cluster 'nothing'"),
        (["--workload", "text2sql", "--cluster", "demo", "--policies", "clairvoyant"], "policy 'clairvoyant'"),
        (["--workload", "text2sql", "--cluster", "demo", "--loads", "0"], "loads"),
        (["--workload", "text2sql", "--cluster", "demo", "--budget-s", "0"], "budget-s = 0"),
        (["--workload", "text2sql", "--cluster", "demo", "--epochs-ms", "-1"], "epochs-ms = -1"),
        (["--workload", "text2sql", "--cluster", "demo", "--seeds", "0"], "seeds = 0"),
        (["--workload", "text2sql", "--cluster", "demo", "--workflows", "0"], "workflows = 0"),
        (["--workload", "text2sql", "--cluster", "demo", "--predictor", "x"], "predictor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[-2:]).replace("--", ""),
)
def test_what_cannot_be_is_said_before_anything_runs(args: list[str], says: str, tmp_path: Path) -> None:
    result = hexsolve(*args, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "out").exists()
