"""The command line: what it prints, what it writes, how it fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hexsolve.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("simulate", "--cluster", "demo", "--workload", "text2sql", "--workflows", "4")


def hexsolve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def two_line_workload(path: Path, **call: object) -> Path:
    line = {
        "workflow_id": "w1",
        "arrival_ms": 0.0,
        "calls": [{"request_id": "a", "input_length": 500, "output_length": 20}],
    }
    second = json.loads(json.dumps(line)) | {"workflow_id": "w2", "arrival_ms": 40.0}
    second["calls"][0].update(call)
    path.write_text(f"{json.dumps(line)}\n{json.dumps(second)}\n")
    return path


# -- simulate ---------------------------------------------------------------------------------------------------------


def test_simulate_writes_table_json_timeline_and_plot(here: Path) -> None:
    outputs = ("--json", "o.json", "--timeline", "t.json", "--plot", "p.png")
    result = hexsolve(*SMALL, "--load", "0.9", "--policy", "workflow-fcfs,hexagent", "--seed", "3", *outputs)
    assert result.exit_code == 0, result.output
    for word in ("Req95", "Req99", "≤1.5", "on time", "workflow-fcfs", "hexagent", "seed 3", "α = 2"):
        assert word in result.stdout
    document = json.loads((here / "o.json").read_text())
    assert document["schema"] == "hexsolve.simulate.v1"
    assert document["arguments"]["cluster"] == "demo"
    assert document["versions"]["numpy"]
    assert [run["policy"] for run in document["runs"]] == ["workflow-fcfs", "hexagent"]
    run = document["runs"][1]
    assert (run["cluster"], run["workload"], run["seed"], run["num_workflows"]) == ("demo", "text2sql", 3, 4)
    # With four workflows the 95th and the 99th percentile are both the worst one.
    assert run["req95"] == run["req99"] == max(run["stretches"])
    assert run["mean_stretch"] == pytest.approx(sum(run["stretches"]) / 4)
    assert run["attainment"]["2"] == sum(stretch <= 2 for stretch in run["stretches"]) / 4
    assert run["decisions"]["count"] > 0
    assert run["decisions"]["p50_ms"] <= run["decisions"]["p99_ms"] <= run["decisions"]["max_ms"]
    assert run["anomalies"] == {}
    assert run["sim_calls_per_s"] > 0
    assert run["num_calls"] == run["counters"]["transfers"]
    names = {
        e["args"]["name"]
        for e in json.loads((here / "t.json").read_text())["traceEvents"]
        if e["ph"] == "M" and "name" in e["args"]
    }
    assert {"hexagent · P0-H100 (prefill)", "workflow-fcfs · D1-A100 (decode)"} <= names
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG")


def test_json_to_standard_output_is_the_only_output(here: Path) -> None:
    result = hexsolve(*SMALL, "--rate", "0.2", "--policy", "hexagent", "--json", "-", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert json.loads(result.stdout)["runs"][0]["policy"] == "hexagent"
    assert list(here.iterdir()) == []


def test_deterministic_runs_are_equal(here: Path) -> None:
    # Decision times are wall times and differ; everything simulated is equal, solver included.
    flags = ("--load", "1.2", "--policy", "solver", "--deterministic", "--budget-ms", "10", "--json", "-", "--quiet")
    first, second = (json.loads(hexsolve(*SMALL, *flags).stdout)["runs"][0] for _ in range(2))
    assert first["stretches"] == second["stretches"]
    assert first["outcomes"] == second["outcomes"] != {}
    assert first["counters"] == second["counters"]


def test_seeds_are_paired_and_summed_up(here: Path) -> None:
    flags = ("--load", "0.9", "--policy", "round-robin,hexagent", "--seed", "5", "--seeds", "3")
    result = hexsolve(*SMALL, *flags, "--json", "o.json")
    assert result.exit_code == 0
    document = json.loads((here / "o.json").read_text())
    assert [(run["policy"], run["seed"]) for run in document["runs"]] == [
        (policy, seed) for seed in (5, 6, 7) for policy in ("round-robin", "hexagent")
    ]
    assert [workload["seed"] for workload in document["inputs"]["workloads"]] == [5, 6, 7]
    assert len({workload["sha256"] for workload in document["inputs"]["workloads"]}) == 3
    by_seed = {(run["policy"], run["seed"]): run["req95"] for run in document["runs"]}
    expected = [by_seed["round-robin", seed] - by_seed["hexagent", seed] for seed in (5, 6, 7)]
    (difference,) = document["differences"]
    assert (difference["policy"], difference["minus"]) == ("round-robin", "hexagent")
    assert difference["req95"]["mean"] == pytest.approx(sum(expected) / 3)
    assert min(expected) <= difference["req95"]["low"] <= difference["req95"]["high"] <= max(expected)
    assert "round-robin minus hexagent, paired by seed, 95 % bootstrap" in " ".join(result.stdout.split())


def test_a_fault_costs_time_and_is_seen(here: Path) -> None:
    flags = ("--rate", "1", "--policy", "hexagent", "--json", "-", "--quiet")
    calm = json.loads(hexsolve(*SMALL, *flags).stdout)["runs"][0]
    hurt = json.loads(hexsolve(*SMALL, *flags, "--fault", "D0-H200@5s-60s").stdout)["runs"][0]
    assert calm["counters"]["losses"] == 0 < hurt["counters"]["losses"]
    assert hurt["mean_stretch"] > calm["mean_stretch"]


def test_a_file_keeps_its_own_arrivals_unless_told_otherwise(here: Path) -> None:
    file = str(two_line_workload(here / "own.jsonl"))
    base = ("simulate", "--cluster", "demo", "--workload", file, "--policy", "hexagent", "--json", "-", "--quiet")
    own = json.loads(hexsolve(*base).stdout)["runs"][0]
    again = json.loads(hexsolve(*base, "--rate", "0.01", "--workflows", "5").stdout)["runs"][0]
    assert own["num_workflows"] == 2
    assert own["end_ms"] < 5000
    assert again["num_workflows"] == 5
    assert again["end_ms"] > 50_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cluster", "hetero-1-lama-70b"), ("did you mean 'hetero-1-llama-70b'?", "demo")),
        (("--workload", "text2sq"), ("did you mean 'text2sql'?", "bfcl")),
        (("--policy", "hexagnt"), ("did you mean 'hexagent'?", "round-robin")),
        (("--policy", "hexagent,hexagent"), ("expected once",)),
        (("--policy", ","), ("expected at least one",)),
        (("--budget-ms", "0"), ("budget_ms = 0.0", "> 0")),
        (("--budget-ms", "inf"), ("budget_ms = inf", "finite")),
        (("--budget-ms", "soon"), ("--budget-ms", "soon")),
        (("--epoch-ms", "-1"), ("epoch_ms = -1.0", ">= 0")),
        (("--rate", "0"), ("rate = 0.0", "> 0")),
        (("--load", "1"), ("rate", "load", "one of the two")),
        (("--workflows", "0"), ("workflows = 0", ">= 1")),
        (("--seed", "-1"), ("seed = -1", ">= 0")),
        (("--seeds", "0"), ("seeds = 0", ">= 1")),
        (("--alpha", "2,fast"), ("alpha", "'fast'")),
        (("--alpha", "0"), ("alpha = 0", "> 0")),
        (("--slo", "nan"), ("slo = nan",)),
        (("--predictor", "noisy:loud"), ("noisy:loud", "number")),
        (("--predictor", "psychic"), ("psychic", "oracle")),
        (("--arrivals", "bursty"), ("bursty", "burst")),
        (("--arrivals", "bursty:-1"), ("bursty:-1", "> 0")),
        (("--fault", "D0-H200"), ("D0-H200@20s-45s",)),
        (("--fault", "D0-H20@3s"), ("did you mean 'D0-H200'?",)),
        (("--fault", "D0-H200@9s-3s"), ("UP after DOWN",)),
        (("--json", "no/such/folder.json"), ("--json", "folder")),
        (("--json", "."), ("--json", "got a folder")),
        (("--json", "x", "--plot", "x"), ("--plot", "--json")),
        (("--colour", "red"), ("--colour",)),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(here: Path, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    result = hexsolve(*SMALL, "--rate", "1", "--plot", "p.png", *flags)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert list(here.iterdir()) == []


def test_a_call_that_fits_no_replica_is_named(here: Path) -> None:
    file = two_line_workload(here / "big.jsonl", input_length=1_200_000)
    result = hexsolve("simulate", "--cluster", "demo", "--workload", str(file), "--json", "o.json")
    assert result.exit_code == 2
    for word in ("'w2'", "'a'", "1200020", "1185776"):
        assert word in result.stderr
    assert not (here / "o.json").exists()


def test_a_file_without_arrivals_must_be_retimed(here: Path) -> None:
    line = '{"id": "%s", "calls": [{"id": 0, "prompt": 10, "out": 5, "deps": []}]}\n'
    (here / "t.jsonl").write_text(line % "a" + line % "b")
    base = ("simulate", "--cluster", "demo", "--workload", "t.jsonl", "--policy", "hexagent", "--quiet")
    result = hexsolve(*base)
    assert result.exit_code == 2
    assert "--load" in result.stderr
    assert hexsolve(*base, "--arrivals", "burst").exit_code == 0


def test_what_stops_a_simulation_is_an_unexpected_failure(here: Path) -> None:
    # Both decode replicas go down for good: nothing can ever finish.
    faults = ("--fault", "D0-H200@0s", "--fault", "D1-A100@0s")
    result = hexsolve(*SMALL, "--rate", "1", "--policy", "hexagent", "--json", "o.json", "--quiet", *faults)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not (here / "o.json").exists()


def test_an_interrupt_is_130(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hexsolve.study.compare.run_policy", interrupted)
    result = hexsolve(*SMALL, "--rate", "1", "--policy", "hexagent", "--json", "o.json")
    assert result.exit_code == 130
    assert not (here / "o.json").exists()


# -- place ------------------------------------------------------------------------------------------------------------


def test_place_shows_decision_bound_gap_and_reasons() -> None:
    result = hexsolve("place", "demo", "--policy", "hexagent", "--explain")
    assert result.exit_code == 0, result.output
    for word in ("puzzle", "P1-A100", "bound", "gap", "planned by"):
        assert word in result.stdout


def test_place_as_json_compares_policies_on_one_scale() -> None:
    # The bound holds for every policy, and nobody is below it; the solver is never above the greedy plan.
    documents = {}
    for policy in ("round-robin", "lookahead", "solver"):
        documents[policy] = json.loads(
            hexsolve("place", "demo", "--policy", policy, "--budget-ms", "200", "--json").stdout
        )
    for document in documents.values():
        assert document["schema"] == "hexsolve.place.v1"
        assert document["objective"] >= document["bound"]
        assert len(document["placements"]) == 8
        assert document["gap"] == pytest.approx(1 - document["bound"] / document["objective"])
    assert documents["lookahead"]["objective"] == documents["lookahead"]["greedy_objective"]
    assert documents["solver"]["objective"] <= documents["solver"]["greedy_objective"]
    assert documents["solver"]["outcome"]
    assert documents["round-robin"]["placements"][0]["projected_finish_ms"] is None


@pytest.mark.parametrize(
    ("args", "word"),
    [(("demo", "--policy", "solvr"), "'solver'"), (("dem",), "'demo'"), (("demo", "--budget-ms", "-3"), "budget_ms")],
)
def test_place_refuses_bad_input(args: tuple[str, ...], word: str) -> None:
    result = hexsolve("place", *args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert word in result.stderr


# -- list, import, validate, demo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("clusters", {"demo", "hetero-1-llama-70b", "homog-a100-qwen3-235b"}),
        ("workloads", {"text2sql", "bfcl", "lats", "mixed", "coding-fanout"}),
        ("policies", {"round-robin", "workflow-fcfs", "workflow-llf", "hexagent", "solver"}),
    ],
)
def test_list_names_everything(kind: str, names: set[str]) -> None:
    rows = json.loads(hexsolve("list", kind, "--json").stdout)
    assert names <= {row["name"] for row in rows}
    shown = hexsolve("list", kind).stdout
    assert all(name in shown for name in names)


def test_import_writes_what_validate_accepts(here: Path) -> None:
    (here / "t.jsonl").write_text(
        '{"id": "a", "calls": [{"id": 0, "prompt": 10, "out": 5, "deps": [], "delay": 90}]}\n'
    )
    result = hexsolve("import", "t.jsonl", "--max-delay-s", "2", "--out", "w.jsonl")
    assert result.exit_code == 0
    assert "1 workflows, 1 calls" in result.stderr
    assert json.loads((here / "w.jsonl").read_text())["calls"][0]["delay_ms"] == 2000.0
    assert hexsolve("import", "w.jsonl", "--to", "agentic-mooncake", "--out", "m.jsonl").exit_code == 0
    result = hexsolve("validate", "w.jsonl", "m.jsonl")
    assert result.exit_code == 0
    assert result.stdout.count(": ok (") == 2


def test_import_of_a_broken_file_writes_nothing(here: Path) -> None:
    (here / "t.jsonl").write_text('{"id": "a", "calls": [{"id": 0, "prompt": 10, "out": 5}]}\n{"id": "b", "calls": [\n')
    result = hexsolve("import", "t.jsonl", "--out", "w.jsonl")
    assert result.exit_code == 2
    assert "t.jsonl:2:" in result.stderr
    assert not (here / "w.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--format", "csv"), "azure"),
        (("--to", "azure"), "canonical"),
        (("--sessions",), "mooncake"),
        (("--max-delay-s", "-1"), ">= 0"),
    ],
)
def test_import_refuses_options_that_do_not_fit(here: Path, args: tuple[str, ...], word: str) -> None:
    (here / "t.jsonl").write_text('{"id": "a", "calls": [{"id": 0, "prompt": 10, "out": 5}]}\n')
    result = hexsolve("import", "t.jsonl", "--out", "w.jsonl", *args)
    assert result.exit_code == 2
    assert word in result.stderr
    assert not (here / "w.jsonl").exists()


def test_validate_shows_every_problem_with_its_line(here: Path) -> None:
    good = (
        '{"workflow_id": "a", "arrival_ms": 0, "calls": [{"request_id": "x", "input_length": 3, "output_length": 1}]}'
    )
    bad = '{"workflow_id": "b", "arrival_ms": 0, "calls": [{"request_id": "x", "input_length": 0, "output_length": 1}]}'
    (here / "w.jsonl").write_text(f"{good}\n{bad}\nnonsense\n")
    (here / "c.toml").write_text('llm = "llama3.1-70b"\n[[prefill]]\ngpu = "H100"\ntp = 4\n')
    (here / "s.json").write_text('{"schema": "hexsolve.snapshot.v1", "cluster": "demo", "now_ms": 0, "events": 3}')
    result = hexsolve("validate", "w.jsonl", "c.toml", "s.json", "none.jsonl")
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    for line, words in zip(
        lines, ("w.jsonl:2: ", "w.jsonl:3: ", "c.toml: ", "s.json: events: ", "none.jsonl: "), strict=True
    ):
        assert line.startswith(f"error: {words}")


def test_the_demo_leaves_three_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexsolve.cli.demo.NUM_WORKFLOWS", 4)
    result = hexsolve("demo")
    assert result.exit_code == 0, result.output
    assert {path.name for path in here.iterdir()} == {"demo-table.md", "demo-attainment.png", "demo-timeline.json"}
    assert "ui.perfetto.dev" in result.stderr
    table = (here / "demo-table.md").read_text()
    assert all(f"| {policy} |" in table for policy in ("round-robin", "workflow-fcfs", "hexagent", "solver"))


# -- as a process -----------------------------------------------------------------------------------------------------


def in_a_process(*args: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    code = "from hexsolve.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": path} | extra
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=environment)


def test_exit_codes_of_a_process() -> None:
    assert in_a_process("list", "policies").returncode == 0
    bad = in_a_process("simulate", "--cluster", "demo", "--workload", "nothing")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert in_a_process().returncode == 2
    helped = in_a_process("--help")
    assert helped.returncode == 0
    assert all(command in helped.stdout for command in ("simulate", "place", "demo", "list", "import", "validate"))
    assert in_a_process("--version").stdout.startswith("hexsolve ")


def test_an_interrupt_amid_a_solve_is_130(tmp_path: Path) -> None:
    assert hexsolve("place", "demo").exit_code == 0  # kernels are on disk now: numba drops an interrupt while compiling
    path = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    flags = ("--cluster", "demo", "--workload", "text2sql", "--load", "1", "--policy", "solver", "--json", "o.json")
    command = [sys.executable, "-c", "from hexsolve.cli import main; main()", "simulate", *flags]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in its background has them ignore interrupts, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("solver (100 workflows)")
    time.sleep(2.5)  # the engine has rehearsed and solves nearly all the time
    for _ in range(30):  # one interrupt is enough, unless numba drops it because it has to compile after all
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
            break
    assert process.returncode == 130
    assert process.stderr.read().splitlines()[-1] == "error: interrupted"
    process.stderr.close()
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_command_is_recognised() -> None:
    result = in_a_process("simulat")
    assert result.returncode == 2
    assert "did you mean 'simulate'?" in result.stderr


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys, hexsolve.cli\n"
        "try: hexsolve.cli.main(['simulate', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numba', 'ortools', 'matplotlib', 'scipy', 'networkx'} & set(sys.modules)))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "models")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.stdout.splitlines()[-1] == "[]"
