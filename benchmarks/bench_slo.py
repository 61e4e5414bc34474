"""The SLO study end to end: how long a whole preset takes, what it says, and what real traces say."""

import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.data import data_folder
from benchmarks.registry import Rows, benchmark
from hexsolve.plot_slo import study_pictures
from hexsolve.study.slo_cell import Cell, Row
from hexsolve.study.slo_config import Study, expand
from hexsolve.study.slo_pool import LocalPool
from hexsolve.study.slo_presets import PRESETS
from hexsolve.study.slo_results import Comparison, compare, markdown, summary
from hexsolve.study.slo_run import run_cells
from hexsolve.study.slo_store import Store

DATA = data_folder() / "traces"
TRACES: dict[str, Any] = {
    "name": "traces",
    "policies": ["workflow-edf", "hexgen-flow", "hexagent", "lookahead", "solver"],
    "variants": [{"label": "solver, declared", "policy": "solver", "engine": {"declared": 1.0}}],
    "num_seeds": 4,
    "grids": [
        {"clusters": ["demo"], "workloads": ["text2sql"], "workflows": 120, "rho": [1.0, 1.2]},
        {"clusters": ["demo"], "workloads": ["tot_text", "tot_game24"], "workflows": 40, "rho": [1.1]},
        {"clusters": ["demo"], "workloads": ["claudecode_chain"], "workflows": 60, "rho": [1.0]},
        {"clusters": ["hetero-1-llama-70b"], "workloads": ["text2sql"], "workflows": 150, "rho": [1.4]},
        {"clusters": ["hetero-1-llama-70b"], "workloads": ["claudecode_chain"], "workflows": 120, "rho": [1.4]},
        {"clusters": ["hetero-1-llama-70b"], "workloads": ["mooncake_conversation"], "workflows": 400, "rho": [1.2]},
    ],
}
"""Recorded workflows (drawn anew, in whole passes) at arrivals of ours: nothing is tuned on them."""


def _finished(study: Study) -> tuple[list[tuple[Cell, Row]], list[Comparison]]:
    """A study run from nothing on all cores."""
    with tempfile.TemporaryDirectory() as folder:
        pool = LocalPool(os.cpu_count() or 1)
        results = run_cells(expand(study, study.name), Store(Path(folder)), pool)
    errors = [row.error for _, row in results if row.error]
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(results)} cells failed, first: {errors[0]}")
    return results, compare(results, study.reference)


def _study(raw: dict[str, Any], **in_grids: object) -> Study:
    """With `in_grids`, fields for every grid, it is one seed: a smoke test."""
    if in_grids:
        raw = raw | {"num_seeds": 1, "grids": [grid | in_grids for grid in raw["grids"]]}
    return msgspec.convert(raw, Study)


def _whole(study: Study) -> Rows:
    """A row per policy over all places, with the wall time of the whole study, tables and plots included."""
    started_s = time.perf_counter()
    results, comparisons = _finished(study)
    markdown(study, comparisons)
    study_pictures(comparisons)
    wall_s = time.perf_counter() - started_s
    cpu_s: Counter[str] = Counter()
    for cell, row in results:
        cpu_s[cell.variant.label] += row.cpu_s
    return [
        {
            "policy": found["policy"],
            "places": found["places"],
            "rel. Req95": found["req95"],
            "rel. Req99": found["req99"],
            "worst rel. Req95": found["worst_req95"],
            "cpu_s": cpu_s[str(found["policy"])],
            "study_wall_s": wall_s,
            "jobs": os.cpu_count() or 1,
        }
        for found in summary(comparisons, contended=False)
    ]


def _by_place(comparisons: list[Comparison]) -> Rows:
    """A row per place: Req95 / Req99 of the reference, and of every other policy relative to it in %."""
    rows: Rows = []
    for found in comparisons:
        row: dict[str, object] = {
            "workload": Path(found.place.workload).stem,
            "cluster": found.place.cluster.name,
            "load": found.place.load.label,
        }
        for label, entry in found.entries.items():
            if entry is found.base:
                row[label] = " / ".join(f"{entry.interval(name).mean:.2f}" for name in ("req95", "req99"))
                continue
            relative = (entry.relative_to(found.base, name) for name in ("req95", "req99"))
            row[label] = " / ".join(
                "" if r is None else f"{r.mean:+.1%} [{r.low:+.1%}, {r.high:+.1%}]" for r in relative
            )
        rows.append(row)
    return rows


@benchmark("slo-quick", "`hexsolve study slo --preset quick`: under two minutes on two cores?")
def slo_quick(smoke: bool) -> Rows:
    raw = PRESETS["quick"]
    return _whole(_study(raw, workflows=6) if smoke else _study(raw))


@benchmark("slo-ladder", "`hexsolve study slo --preset ladder`: what does it say, and how long does it take?")
def slo_ladder(smoke: bool) -> Rows:
    raw = PRESETS["ladder"]
    return _whole(_study(raw, workflows=2, rho=[1.0], burst=False) if smoke else _study(raw))


@benchmark("slo-traces", "Recorded workflows (in $HEXSOLVE_DATA or ../shared/data): does the solver hold there?")
def slo_traces(smoke: bool) -> Rows:
    if not DATA.is_dir():
        return [{"skipped": f"no traces in {DATA}"}]
    grids = [
        grid | {"workloads": [str(DATA / f"{name}.jsonl") for name in grid["workloads"]]} for grid in TRACES["grids"]
    ]
    raw = TRACES | {"grids": grids}
    return _by_place(_finished(_study(raw, workflows=2) if smoke else _study(raw))[1])
