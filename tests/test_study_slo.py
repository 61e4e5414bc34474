"""The SLO study: what it computes and never twice, what it says of bad input, and its figures on rows made by hand."""

import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from hexsolve.catalog import instances_dir, load_cluster
from hexsolve.cli.app import app
from hexsolve.errors import InputError
from hexsolve.plot_slo import Style, plot_along, plot_attainments, study_pictures
from hexsolve.sim import SimOptions
from hexsolve.study import build_workload, run_policy, standalone_ms
from hexsolve.study import slo_cell as slo_cell_module
from hexsolve.study.run import EngineOptions
from hexsolve.study.slo_cell import Alone, AloneRow, Cell, Load, Place, Row, Variant
from hexsolve.study.slo_config import Study, expand, read_study
from hexsolve.study.slo_pool import Crash, LocalPool, RayPool
from hexsolve.study.slo_presets import PRESETS
from hexsolve.study.slo_results import (
    attainment_band,
    compare,
    csv_bytes,
    document,
    flat_rows,
    markdown,
    parquet_bytes,
    summary,
)
from hexsolve.study.slo_run import Progress, run_cells
from hexsolve.study.slo_setting import Failure, Late, Setting
from hexsolve.study.slo_store import Store

WALL = ("decision_p50_ms", "decision_p99_ms", "cpu_s")
TINY = """
name = "tiny"
policies = ["workflow-fcfs", "hexagent"]
num_seeds = 2
[[grids]]
clusters = ["demo"]
workloads = ["text2sql"]
workflows = 3
rho = [0.8]
burst = true
"""


def tiny(**changes: object) -> Study:
    raw = {
        "name": "tiny",
        "policies": ["workflow-fcfs", "hexagent"],
        "num_seeds": 2,
        "grids": [{"clusters": ["demo"], "workloads": ["text2sql"], "workflows": 3, "rho": [0.8], "burst": True}],
    }
    return msgspec.convert(raw | changes, Study)


def without_wall(row: Row) -> Row:
    return msgspec.structs.replace(row, **dict.fromkeys(WALL, 0.0))


def a_row_of(cell: Cell, row: Row) -> Row:
    """Without wall times and key: two processes agree on keys only while nobody edits the sources in between."""
    return msgspec.structs.replace(without_wall(row), key=cell.label)


def hexsolve(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


class CountingPool(LocalPool):
    """Counts tasks by kind, and dies after `most` rows."""

    def __init__(self, most: float = math.inf) -> None:
        super().__init__(1)
        self.rows = self.alone = 0
        self.most = most

    def map(self, function, tasks):
        for position, result in super().map(function, tasks):
            if isinstance(result, Row):
                if self.rows >= self.most:
                    raise KeyboardInterrupt
                self.rows += 1
            else:
                self.alone += 1
            yield position, result


# -- computing --------------------------------------------------------------------------------------------------------


def test_a_row_is_what_a_plain_run_gives(tmp_path: Path) -> None:
    study = tiny(settings=[{"name": "noisy", "predictor": "noisy:0.3", "kv_scale": 0.9}])
    results = run_cells(expand(study, "tiny"), Store(tmp_path), LocalPool(1))
    cluster = load_cluster("demo")
    cell, row = results[0]
    assert (cell.seed, cell.variant.label, cell.place.load.label) == (1000, "workflow-fcfs", "ρ 0.8")
    workload = build_workload("text2sql", 3, 1000, cluster=cluster, load=0.8)
    world = Setting(name="noisy", kv_scale=0.9).cluster(cluster)
    alone_ms = standalone_ms(world, workload)
    run = run_policy(world, workload, "workflow-fcfs", alone_ms, seed=1000, predictor="noisy:0.3")
    assert row.stretches == run.stretches.tolist()
    assert row.counters == run.counters
    assert row.num_calls == workload.num_calls


def test_a_killed_study_goes_on_and_computes_nothing_twice(tmp_path: Path) -> None:
    cells = expand(tiny(), "tiny")
    first, second, third = CountingPool(most=3), CountingPool(), CountingPool()
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, Store(tmp_path), first)
    results = run_cells(cells, Store(tmp_path), second)
    assert (first.rows, second.rows) == (3, len(cells) - 3)
    # Two seeds on one cluster: two sets of denominators, for all loads and policies.
    assert (first.alone, second.alone) == (2, 0)
    again = run_cells(cells, Store(tmp_path), third)
    assert (third.rows, third.alone) == (0, 0)
    assert again == results
    fresh = run_cells(cells, Store(tmp_path / "fresh"), LocalPool(1))
    assert [without_wall(row) for _, row in fresh] == [without_wall(row) for _, row in results]


def test_a_killed_process_leaves_good_rows_only(tmp_path: Path) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(TINY.replace("num_seeds = 2", "num_seeds = 60"))
    command = [
        sys.executable,
        "-c",
        "from hexsolve.cli import main; main()",
        "study",
        "slo",
        "--config",
        str(config),
        "--out",
        str(out),
    ]
    process = subprocess.Popen([*command, "--jobs", "1", "--quiet", "--no-plots"])
    try:
        while not len(list((out / "rows").glob("*.json"))) > 2:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    cells = {cell.key for cell in expand(read_study(config), "tiny")}
    left = {file.stem for file in (out / "rows").glob("*.json")}
    assert 2 < len(left) < len(cells)
    assert left <= cells
    assert all(Store(out).row(key) is not None for key in left)


def test_rows_do_not_depend_on_the_number_of_jobs(tmp_path: Path) -> None:
    study = tiny(policies=["hexagent", "solver"], engine={"budget_ms": 2.0}, num_seeds=1)
    cells = expand(study, "tiny")
    one, two = (run_cells(cells, Store(tmp_path / str(jobs)), LocalPool(jobs)) for jobs in (1, 2))
    assert [cell.label for cell, _ in one] == [cell.label for cell, _ in two]
    assert [without_wall(row) for _, row in one] == [without_wall(row) for _, row in two]
    assert any(row.outcomes for _, row in one)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_rows_are_the_same_on_ray(tmp_path: Path) -> None:
    cells = expand(tiny(num_seeds=1), "tiny")
    here = run_cells(cells, Store(tmp_path / "here"), LocalPool(1))
    # Ray starts processes and sockets of its own that warn; what is tested here are rows, in a process of their own.
    code = f"""
from pathlib import Path
import msgspec
from hexsolve.study.slo_config import expand, read_study
from hexsolve.study.slo_pool import RayPool
from hexsolve.study.slo_run import run_cells
from hexsolve.study.slo_store import Store
pool = RayPool("local", 1)
cells = expand(read_study(Path({str(tmp_path / "tiny.toml")!r})), "tiny")
rows = [row for _, row in run_cells(cells, Store(Path({str(tmp_path / "there")!r})), pool)]
Path({str(tmp_path / "rows.json")!r}).write_bytes(msgspec.json.encode(rows))
print(*pool.map(lambda task: task * task, [3]))
print(*pool.map(lambda task: __import__("os")._exit(1), [3]))
pool.close()
"""
    (tmp_path / "tiny.toml").write_text(TINY.replace("num_seeds = 2", "num_seeds = 1"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "(0, 9)"
    assert "Crash(" in done.stdout
    there = msgspec.json.decode((tmp_path / "rows.json").read_bytes(), type=list[Row])
    assert [a_row_of(cell, row) for cell, row in zip(cells, there, strict=True)] == [a_row_of(*item) for item in here]


def test_without_ray_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexsolve.study.slo_pool.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"hexsolve\[ray\].*--jobs"):
        RayPool("local")


def die_of_three(task: int) -> int:
    if task == 3:
        os._exit(1)
    return task * task


def test_a_worker_that_dies_costs_its_own_task_only() -> None:
    found = dict(LocalPool(2).map(die_of_three, range(6)))
    assert isinstance(found.pop(3), Crash)
    assert found == {task: task * task for task in (0, 1, 2, 4, 5)}


def test_a_cell_that_fails_is_a_row_with_its_error(tmp_path: Path) -> None:
    study = tiny(num_seeds=1, settings=[{"name": "base"}, {"name": "no room", "kv_scale": 0.001}])
    store = Store(tmp_path)
    results = run_cells(expand(study, "tiny"), store, LocalPool(1))
    failed = [row for cell, row in results if cell.place.setting.name == "no room"]
    assert all("no decode replica" in row.error for row in failed)
    assert all(not row.error for cell, row in results if cell.place.setting.name == "base")
    text = markdown(study, compare(results, "hexagent"))
    assert "## Failed cells" in text
    assert "hexagent (1 failed)" in text
    records = flat_rows(results, study)
    assert {record["req95"] is None for record in records if record["error"]} == {True}
    assert csv_bytes(records).decode().count("no decode replica") == len(failed) == 4


def test_failed_rows_are_kept_or_tried_again(tmp_path: Path) -> None:
    cells, store = expand(tiny(num_seeds=1), "tiny"), Store(tmp_path)
    store.put(Row(cells[0].key, error="OSError: none left"))
    kept = run_cells(cells, store, LocalPool(1))
    assert kept[0][1].error == "OSError: none left"
    assert not run_cells(cells, store, LocalPool(1), retry_failed=True)[0][1].error


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "another"}', b"[]"])
def test_a_file_that_is_no_good_row_is_computed_again(tmp_path: Path, content: bytes) -> None:
    cells, store = expand(tiny(num_seeds=1), "tiny")[:1], Store(tmp_path)
    (tmp_path / "rows" / f"{cells[0].key}.json").write_bytes(content)
    assert store.row(cells[0].key) is None
    assert run_cells(cells, store, LocalPool(1))[0][1].stretches


def test_progress_ends_with_everything_done(tmp_path: Path) -> None:
    seen: list[Progress] = []
    cells, store = expand(tiny(), "tiny"), Store(tmp_path)
    run_cells(cells[:3], store, LocalPool(1))
    run_cells(cells, store, LocalPool(1), seen.append)
    rows = [progress for progress in seen if progress.phase == "cells"]
    assert [progress.done for progress in rows] == list(range(3, len(cells) + 1))
    assert rows[-1].left_s == 0.0
    assert all(progress.left_s is not None and progress.left_s >= 0.0 for progress in rows)


# -- keys -------------------------------------------------------------------------------------------------------------


def a_cell(**changes: object) -> Cell:
    place = Place(load_cluster("demo"), "text2sql", 3, Load("rho", 0.8))
    of_place = {name: changes.pop(name) for name in list(changes) if name in Place.__dataclass_fields__}
    return replace(Cell(replace(place, **of_place), Variant("a", "hexagent", EngineOptions()), 7), **changes)


def test_a_key_depends_on_everything_but_names() -> None:
    different = [
        a_cell(),
        a_cell(seed=8),
        a_cell(workflows=4),
        a_cell(source="bfcl"),
        a_cell(load=Load("rho", 0.9)),
        a_cell(load=Load("rate", 0.8)),
        a_cell(load=Load("rho", 0.8, cv=2.0)),
        a_cell(predictor="noisy:0.1"),
        a_cell(cluster=load_cluster("hetero-1-llama-70b")),
        a_cell(variant=Variant("a", "workflow-fcfs", EngineOptions())),
        a_cell(variant=Variant("a", "hexagent", EngineOptions(budget_ms=6.0))),
        *(
            a_cell(setting=setting)
            for setting in (
                Setting(gpu_speed={"A100": 0.5}),
                Setting(kappa_prefill=1.0),
                Setting(kappa_decode=1.0),
                Setting(ttft_overhead_ms=0.0),
                Setting(bandwidth_gb_s=1.25),
                Setting(link_latency_ms=6.0),
                Setting(kv_scale=0.5),
                Setting(predictor="learned"),
                Setting(reaction_ms=10.0),
                Setting(prefix_reuse=False),
                Setting(failure=Failure(role="decode")),
                Setting(failure=Failure(role="decode", at=0.7)),
            )
        ),
    ]
    assert len({cell.key for cell in different}) == len(different)
    same = a_cell(variant=Variant("b", "hexagent", EngineOptions()), setting=Setting(name="other"))
    assert same.key == a_cell().key


def test_denominators_are_shared_by_loads_policies_and_faults() -> None:
    alone = a_cell().alone.key
    shared = [
        a_cell(load=Load("burst")),
        a_cell(variant=Variant("x", "solver", EngineOptions())),
        a_cell(setting=Setting(failure=Failure(role="prefill"))),
        a_cell(setting=Setting(reaction_ms=5.0, predictor="learned")),
    ]
    assert {cell.alone.key for cell in shared} == {alone}
    apart = [a_cell(seed=8), a_cell(setting=Setting(kv_scale=0.5)), a_cell(setting=Setting(prefix_reuse=False))]
    assert len({alone, *(cell.alone.key for cell in apart)}) == 4


def test_shared_denominators_fit_every_load() -> None:
    cluster = load_cluster("demo")
    place = Place(cluster, "text2sql", 4, Load("burst"))
    found = Alone(place, 3).compute().alone_ms
    for load in (Load("rho", 0.7), Load("rate", 2.0, cv=3.0)):
        workload = replace(place, load=load).build(3)
        assert found == standalone_ms(cluster, workload).tolist()


def test_an_edit_of_the_sources_changes_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = a_cell().key
    monkeypatch.setattr(slo_cell_module, "sources_digest", lambda: "another")
    assert a_cell().key != before


def test_a_files_content_is_part_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "w.jsonl"
    keys = set()
    for tokens in (100, 101):
        call = {"request_id": "a", "input_length": tokens, "output_length": 20}
        file.write_text(json.dumps({"workflow_id": "w", "arrival_ms": 0.0, "calls": [call]}) + "\n")
        keys.add(a_cell(source=str(file)).key)
    assert len(keys) == 2


# -- settings ---------------------------------------------------------------------------------------------------------


def test_a_setting_changes_what_it_names_and_nothing_else() -> None:
    base = load_cluster("demo")
    assert Setting().cluster(base) == base
    changed = Setting(
        gpu_speed={"A100": 2.0, "B200": 3.0}, kappa_decode=2.1, bandwidth_gb_s=1.25, kv_scale=0.5, link_latency_ms=6.0
    ).cluster(base)
    for before, after in zip(base.prefill + base.decode, changed.prefill + changed.decode, strict=True):
        speed = 2.0 if before.gpu == "A100" else 1.0
        assert after.profile.kappa_prefill == before.profile.kappa_prefill / speed
        assert after.profile.kappa_decode == 2.1 / speed
        assert after.bandwidth_gb_s == 1.25
        scale = 0.5 if before.role == "decode" else 1.0
        assert scale * before.kv_capacity_tokens - 16 < after.kv_capacity_tokens <= scale * before.kv_capacity_tokens
    assert changed.link_latency_ms == 6.0


def test_settings_leave_the_arrivals_alone() -> None:
    plain, slow = a_cell().place, a_cell(setting=Setting(gpu_speed={"A100": 0.5})).place
    assert plain.build(5) == slow.build(5)


def test_a_failure_falls_into_the_run() -> None:
    failure = Failure(role="decode", index=1, at=0.5, down_for_s=2.0)
    down, up = Setting(failure=failure).faults(last_arrival_ms=8000.0, mean_alone_ms=1000.0)
    assert (down.time_ms, up.time_ms, down.role, down.index) == (4000.0, 6000.0, "decode", 1)
    assert Setting(failure=failure).faults(0.0, 1000.0)[0].time_ms == 500.0
    assert Setting().faults(8000.0, 1000.0) == ()


def test_a_failure_costs_calls_their_kv(tmp_path: Path) -> None:
    failure = {"role": "decode", "at": 0.5}
    study = tiny(num_seeds=1, settings=[{"name": "base"}, {"name": "down", "failure": failure}])
    results = run_cells(expand(study, "tiny"), Store(tmp_path), LocalPool(1))
    burst = [(cell, row) for cell, row in results if cell.place.load.kind == "burst"]
    lost = {cell.place.setting.name: row.counters["losses"] for cell, row in burst if not row.error}
    assert lost["base"] == 0 < lost["down"]


def test_a_late_scheduler_costs_every_reveal_its_reaction() -> None:
    cluster = load_cluster("demo")
    workload = build_workload("text2sql", 1, 3, cluster=cluster, rate_per_s=1.0)
    alone_ms = standalone_ms(cluster, workload)
    spans = {}
    for reaction_ms in (0.0, 40.0):
        run = run_policy(cluster, workload, "hexagent", alone_ms, wrap=lambda e, late=reaction_ms: Late(e, late))
        spans[reaction_ms] = float(run.stretches[0] * alone_ms[0])
    depth: dict[str, int] = {}
    for call in workload.workflows[0].calls:
        depth[call.request_id] = 1 + max((depth[name] for name in call.dependencies), default=0)
    # A lone workflow waits at least once per step of its longest chain, and not much more than once per call.
    assert spans[0.0] == pytest.approx(alone_ms[0])
    added = spans[40.0] - spans[0.0]
    assert 0.5 * 40.0 * max(depth.values()) <= added <= 2 * 40.0 * len(depth)


# -- config -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num_seeds = 2", "num_seeds = 0", ["num_seeds = 0", "an integer >= 1"]),
        ("num_seeds = 2", "num_sedes = 2", ["unknown key 'num_sedes'", "num_seeds"]),
        ('name = "tiny"', "", ["missing key 'name'"]),
        ("rho = [0.8]", "rho = [-1.0]", ["grids[0].rho[0] = -1.0", "a number > 0"]),
        ("rho = [0.8]\nburst = true", "", ["grids[0]", "expected a load"]),
        ("burst = true", 'burst = "yes"', ["grids[0].burst", "true or false", '"yes"']),
        ('"hexagent"]', '"hexagnet"]', ["policies", "hexagnet", "did you mean 'hexagent'"]),
        ('["workflow-fcfs", "hexagent"]', "[]", ["policies", "at least one"]),
        ('["demo"]', '["dem"]', ["grids[0].clusters[0]", "'dem'", "demo"]),
        ('["text2sql"]', '["text2sq"]', ["grids[0].workloads[0]", "'text2sq'", "text2sql"]),
        ("burst = true", "recorded = true", ["grids[0].workloads[0]", "file"]),
        ("num_seeds = 2", "num_seeds = 2\npredictor = 'psychic'", ["predictor", "psychic", "oracle"]),
        ("num_seeds = 2", "num_seeds = 2\nplotted = ['solver']", ["plotted[0]", "'solver' does not run"]),
        ("num_seeds = 2", "num_seeds = 2\nengine = {budget = 5}", ["engine", "unknown key 'budget'", "budget_ms"]),
        ("num_seeds = 2", "num_seeds = 2\nengine = {budget_ms = -5.0}", ["engine", "budget_ms", "-5.0"]),
        ("burst = true", "burst = true\n[[settings]]\nkv_scale = 0.0", ["settings[0].kv_scale = 0.0", "> 0"]),
        ("burst = true", "burst = true\n[[settings]]\nkv_scale = 1e-9", ["settings[0]", "kv_capacity_tokens"]),
        ("burst = true", "burst = true\n[[settings]]\ngpu_speed = {B200 = 2.0}", ["settings[0].gpu_speed", "'B200'"]),
        (
            "burst = true",
            "burst = true\n[[settings]]\nfailure = {role = 'decode', index = 9}",
            ["settings[0].failure.index", "0..1", "9"],
        ),
        ("burst = true", "burst = true\n[[settings]]\n[[settings]]", ["settings[1].name", "'base' twice"]),
        (
            "burst = true",
            "burst = true\n[[variants]]\nlabel = 'hexagent'\npolicy = 'solver'",
            ["variants[0].label", "'hexagent' twice"],
        ),
    ],
)
def test_a_bad_field_is_one_error_that_names_it(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in TINY
    file = tmp_path / "bad.toml"
    file.write_text(TINY.replace(old, new, 1))
    result = hexsolve("study", "slo", "--config", str(file), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: {file}: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "expected --config FILE or --preset"),
        (("--config", "a.toml", "--preset", "quick"), "one of the two"),
        (("--preset", "quik"), "did you mean 'quick'"),
        (("--preset", "quick", "--seeds", "0"), "seeds = 0"),
        (("--preset", "quick", "--jobs", "0"), "jobs = 0"),
        (("--preset", "quick", "--policy", "nope"), "'nope'"),
    ],
)
def test_bad_options_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = hexsolve("study", "slo", *options)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_studies(name: str) -> None:
    study = msgspec.convert(PRESETS[name], Study)
    assert study.name == name
    assert study.first_seed >= 1000
    cells = expand(study, name)
    assert len({cell.key for cell in cells}) == len(cells)


def test_the_paper_preset_has_the_papers_grid() -> None:
    cells = expand(msgspec.convert(PRESETS["paper"], Study), "paper")
    at_rate = {
        (cell.place.cluster.name, cell.place.source, cell.place.workflows, cell.place.load.value)
        for cell in cells
        if cell.place.load.kind == "rate"
    }
    clusters = {name for name, *_ in at_rate}
    assert len(clusters) == 6
    traces = {("sharegpt", 100, 10.0), ("bfcl", 400, 40.0), ("lats", 100, 40.0), ("mixed", 100, 10.0)}
    assert at_rate == {(cluster, *trace) for cluster, trace in product(clusters, traces)}


def test_variants_carry_engine_options_of_their_own() -> None:
    study = tiny(variants=[{"label": "solver-20", "policy": "solver", "engine": {"budget_ms": 20.0}}])
    by_label = {cell.variant.label: cell.variant for cell in expand(study, "tiny")}
    assert by_label["hexagent"].engine == EngineOptions(budget_ms=5.0, deterministic=True)
    assert by_label["solver-20"].engine == EngineOptions(budget_ms=20.0, deterministic=True)
    assert by_label["solver-20"].policy == "solver"


def test_the_study_file_of_the_docs_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "study.md").read_text()
    (tmp_path / "docs.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    (tmp_path / "my-cluster.toml").write_text((instances_dir() / "clusters" / "demo.toml").read_text())
    (tmp_path / "my-trace.jsonl").touch()
    study = read_study(tmp_path / "docs.toml")
    places = {cell.place.identity for cell in expand(study, "docs", tmp_path)}
    # The two clusters are one by content; two workloads, four loads, two settings.
    assert len(places) == 2 * 4 * 2
    fields = {name for setting in study.settings for name in setting.__struct_fields__ if getattr(setting, name)}
    assert fields | {"prefix_reuse"} == set(Setting.__struct_fields__)


def test_files_are_found_beside_the_config(tmp_path: Path) -> None:
    call = {"request_id": "a", "input_length": 500, "output_length": 20}
    lines = [json.dumps({"workflow_id": f"w{i}", "arrival_ms": 40.0 * i, "calls": [call]}) for i in range(3)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n")
    config = tmp_path / "study.toml"
    text = TINY.replace('"text2sql"', '"mine.jsonl"').replace("burst = true", "recorded = true")
    config.write_text(text.replace("num_seeds = 2", "num_seeds = 1"))
    result = hexsolve("study", "slo", "--config", str(config), "--out", str(tmp_path / "out"), "--jobs", "1", "--quiet")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "rows.csv").read_text())))
    assert {(row["workload"], row["load"]) for row in rows} == {("mine", "ρ 0.8"), ("mine", "recorded")}


# -- figures of rows made by hand -------------------------------------------------------------------------------------


def by_hand(stretches: dict[str, dict[int, list[float]]], loads: tuple[Load, ...] = (Load("rho", 0.8),)) -> list:
    cluster = load_cluster("demo")
    results = []
    for load in loads:
        place = Place(cluster, "text2sql", 3, load)
        for label, by_seed in stretches.items():
            for seed, values in by_seed.items():
                cell = Cell(place, Variant(label, label, EngineOptions()), seed)
                counters = {"prefill_waits": 1, "transfers": 8, "transfers_contended": 2, "kv_waits": 4, "decisions": 5}
                row = Row(cell.key, 10, 1.0, values, {"plan adopted": 1}, counters)
                results.append((cell, row if values else Row(cell.key, error="Broken: on purpose")))
    return results


def test_intervals_and_pairs_on_rows_made_by_hand() -> None:
    results = by_hand({"hexagent": {1: [2.0, 2.0], 2: [4.0, 4.0]}, "solver": {1: [1.0, 1.0], 2: [3.0, 3.0]}})
    (found,) = compare(results, "hexagent")
    base, solver = found.entries["hexagent"], found.entries["solver"]
    # Two seeds drawn with replacement: means 2, 3 (twice) and 4, so the 95 % interval spans both ends.
    assert vars(base.interval("req95")) == {"mean": 3.0, "low": 2.0, "high": 4.0}
    relative = solver.relative_to(base, "req95")
    assert relative is not None
    assert (relative.mean, relative.low, relative.high) == pytest.approx((-0.375, -0.5, -0.25))
    assert found.contended
    assert solver.on_time(2.0) == 0.5
    expected = {"waits": 0.1, "kv_waits": 0.4, "contended": 0.25, "moves": 0.0, "adopted": 0.2}
    assert solver.mechanisms == pytest.approx(expected)


def test_a_seed_in_which_one_failed_is_no_pair() -> None:
    results = by_hand({"hexagent": {1: [2.0], 2: [], 3: [4.0]}, "solver": {1: [1.0], 2: [9.0], 3: []}})
    (found,) = compare(results, "hexagent")
    relative = found.entries["solver"].relative_to(found.base, "req99")
    assert relative is not None
    assert vars(relative) == {"mean": -0.5, "low": -0.5, "high": -0.5}
    only = by_hand({"hexagent": {1: []}, "solver": {1: [1.0]}})
    assert (
        compare(only, "hexagent")[0].entries["solver"].relative_to(compare(only, "hexagent")[0].base, "req95") is None
    )


@given(
    base=st.lists(st.floats(1.0, 9.0), min_size=2, max_size=6),
    factor=st.floats(0.5, 2.0),
)
def test_a_constant_factor_has_a_sharp_interval_whatever_the_spread(base: list[float], factor: float) -> None:
    results = by_hand(
        {
            "hexagent": {seed: [value] for seed, value in enumerate(base)},
            "solver": {seed: [factor * value] for seed, value in enumerate(base)},
        }
    )
    (found,) = compare(results, "hexagent")
    relative = found.entries["solver"].relative_to(found.base, "req95")
    assert relative is not None
    assert (relative.low, relative.mean, relative.high) == pytest.approx((factor - 1,) * 3)


def test_the_summary_counts_places_and_names_the_worst() -> None:
    good = by_hand({"hexagent": {1: [2.0]}, "solver": {1: [1.0]}}, (Load("rho", 0.8), Load("rho", 0.9)))
    bad = by_hand({"hexagent": {1: [1.0]}, "solver": {1: [1.5]}}, (Load("burst"),))
    comparisons = compare(good + bad, "hexagent")
    everything = {record["policy"]: record for record in summary(comparisons, contended=False)}
    assert everything["solver"]["places"] == 3
    assert everything["solver"]["req95"] == pytest.approx((-0.5 - 0.5 + 0.5) / 3)
    assert everything["solver"]["lost"] == 1
    assert "burst" in everything["solver"]["worst_place"]
    contended = {record["policy"]: record for record in summary(comparisons, contended=True)}
    assert (contended["solver"]["places"], contended["solver"]["lost"]) == (2, 0)


def test_bands_hold_the_mean_and_shrink_to_it_for_one_seed() -> None:
    rows = [Row("a", stretches=[1.0, 2.0, 3.0]), Row("b", stretches=[2.0, 4.0, 6.0])]
    scales = np.array([0.5, 2.0, 4.0, 6.0])
    mean, low, high = attainment_band(rows, scales)
    assert mean.tolist() == pytest.approx([0.0, (2 / 3 + 1 / 3) / 2, (1 + 2 / 3) / 2, 1.0])
    assert (low <= mean).all()
    assert (mean <= high).all()
    one, low_one, high_one = attainment_band(rows[:1], scales)
    assert one.tolist() == low_one.tolist() == high_one.tolist()


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_and_csv_hold_the_same_rows() -> None:
    import pyarrow.parquet

    results = by_hand({"hexagent": {1: [2.0], 2: []}, "solver": {1: [1.0], 2: [3.0]}})
    records = flat_rows(results, tiny())
    table = pyarrow.parquet.read_table(io.BytesIO(parquet_bytes(records))).to_pylist()
    assert table == records
    from_csv = list(csv.DictReader(io.StringIO(csv_bytes(records).decode())))
    assert [row["req95"] for row in from_csv] == ["2.0", "", "1.0", "3.0"]
    assert list(from_csv[0]) == list(records[0])


def test_without_pyarrow_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hexsolve.study.slo_results.find_spec", lambda name: None)
    result = hexsolve("study", "slo", "--preset", "quick", "--parquet", "--dry-run")
    assert result.exit_code == 2
    assert "hexsolve[parquet]" in result.stderr


# -- files and pictures -----------------------------------------------------------------------------------------------


def test_a_study_writes_table_rows_json_and_plots(tmp_path: Path) -> None:
    config, out = tmp_path / "tiny.toml", tmp_path / "out"
    config.write_text(TINY)
    args = ("study", "slo", "--config", str(config), "--out", str(out), "--jobs", "1")
    result = hexsolve(*args)
    assert result.exit_code == 0, result.output
    assert "8 of 8" in result.stderr
    rows = list(csv.DictReader(io.StringIO((out / "rows.csv").read_text())))
    assert len(rows) == 8
    document = json.loads((out / "study.json").read_text())
    assert document["schema"] == "hexsolve.study.slo.v1"
    assert [row["req95"] for row in document["rows"]] == [float(row["req95"]) for row in rows]
    assert [place["load"]["label"] for place in document["places"]] == ["ρ 0.8", "burst"]
    policies = document["places"][1]["policies"]
    assert policies[0]["relative"]["req95"]["mean"] == pytest.approx(
        np.mean(
            [a["req95"] / b["req95"] - 1 for a, b in zip(document["rows"][2::4], document["rows"][3::4], strict=True)]
        )
    )
    text = (out / "study.md").read_text()
    for words in ("# SLO study tiny", "## All places", "text2sql on demo, burst, 3 workflows", "| hexagent |", "waits"):
        assert words in text
    pictures = sorted(file.name for file in (out / "plots").iterdir())
    assert pictures == ["attainment-demo-text2sql.png", "ladder-demo.png"]
    assert all((out / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert hexsolve(*args, "--quiet").stderr == ""


def test_dry_run_counts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = hexsolve("study", "slo", "--preset", "quick", "--dry-run", "--seeds", "7", "--policy", "hexagent,solver")
    assert result.exit_code == 0
    assert result.stdout == "quick: 84 cells (6 places, 7 seeds) in slo-quick\n"
    assert list(tmp_path.iterdir()) == []


def test_pictures_show_every_policy_with_its_own_look() -> None:
    stretches = {"hexagent": {1: [1.0, 2.0], 2: [1.5, 4.0]}, "solver": {1: [1.0, 1.5], 2: [], 3: [2.0, 2.5]}}
    results = by_hand(stretches, (Load("rho", 0.5), Load("rho", 1.0), Load("burst")))
    comparisons = compare(results, "hexagent")
    style = Style.of(["hexagent", "solver"])
    figure = plot_along(comparisons, lambda found: found.place.load.label, "load", style, "t")
    req95 = figure.axes[0]
    assert [tick.get_text() for tick in req95.get_xticklabels()] == ["ρ 0.5", "ρ 1", "burst"]
    lines = {line.get_label(): line.get_ydata() for line in req95.get_lines()}
    assert lines["hexagent"].tolist() == [3.0, 3.0, 3.0]
    assert lines["solver"].tolist() == [2.0, 2.0, 2.0]
    curves = plot_attainments(comparisons, style, "t")
    assert [axes.get_title() for axes in curves.axes] == ["ρ 0.5", "ρ 1", "burst"]
    assert set(study_pictures(comparisons)) == {"attainment-demo-text2sql.png", "ladder-demo.png"}
    many = Style.of([str(number) for number in range(28)])
    assert len(set(many.looks.values())) == 28


def test_every_picture_has_a_file_of_its_own() -> None:
    names = [setting["name"] for setting in PRESETS["sensitivity"]["settings"]] + ["a/b", "a:b", "ä", "ö"]
    found = [
        (replace(cell, place=replace(cell.place, setting=Setting(name=name))), row)
        for name in names
        for cell, row in by_hand({"hexagent": {1: [1.0, 2.0]}})
    ]
    pictures = study_pictures(compare(found, "hexagent"))
    assert len(pictures) == len(names) + 1
    assert "attainment-demo-text2sql-A100-minus-25-percent.png" in pictures
    assert all(re.fullmatch(r"[A-Za-z0-9.+-]+\.png", name) for name in pictures)


def test_a_place_where_all_failed_still_has_a_picture() -> None:
    results = by_hand({"hexagent": {1: []}, "solver": {1: []}}, (Load("rho", 0.5), Load("burst")))
    comparisons = compare(results, "hexagent")
    assert all(content.startswith(b"\x89PNG") for content in study_pictures(comparisons).values())
    assert "–" in markdown(tiny(), comparisons)
    assert document(tiny(), results)["places"][0]["policies"][0]["errors"] == {"1": "Broken: on purpose"}


def test_faults_are_part_of_the_simulation_only() -> None:
    # H_w has no faults, whatever the setting: `Alone` never sees them.
    place = Place(load_cluster("demo"), "text2sql", 2, Load("burst"), Setting(failure=Failure(role="decode")))
    plain = standalone_ms(place.cluster, place.build(1), options=SimOptions())
    assert Alone(place, 1).compute() == AloneRow(Alone(place, 1).key, plain.tolist())
