"""The SLO study end to end: how long a whole preset takes, and what it says."""

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from benchmarks.registry import Rows, benchmark
from hexsolve.plot_slo import study_pictures
from hexsolve.study.slo_config import Study, expand
from hexsolve.study.slo_pool import LocalPool
from hexsolve.study.slo_presets import PRESETS
from hexsolve.study.slo_results import compare, markdown, summary
from hexsolve.study.slo_run import run_cells
from hexsolve.study.slo_store import Store


def _preset(name: str, **in_grids: object) -> Rows:
    """A row per policy over all places, with the wall time of the whole study, tables and plots included.

    With `in_grids`, fields for every grid, it is one seed: a smoke test.
    """
    raw = dict(PRESETS[name])
    if in_grids:
        raw |= {"num_seeds": 1, "grids": [grid | in_grids for grid in raw["grids"]]}
    study = msgspec.convert(raw, Study)
    jobs = os.cpu_count() or 1
    started_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        results = run_cells(expand(study, name), Store(Path(folder)), LocalPool(jobs))
    comparisons = compare(results, study.reference)
    markdown(study, comparisons)
    study_pictures(comparisons)
    wall_s = time.perf_counter() - started_s
    errors = [row.error for _, row in results if row.error]
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(results)} cells failed, first: {errors[0]}")
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
            "jobs": jobs,
        }
        for found in summary(comparisons, contended=False)
    ]


@benchmark("slo-quick", "`hexsolve study slo --preset quick`: under two minutes on two cores?")
def slo_quick(smoke: bool) -> Rows:
    return _preset("quick", workflows=6) if smoke else _preset("quick")


@benchmark("slo-ladder", "`hexsolve study slo --preset ladder`: what does it say, and how long does it take?")
def slo_ladder(smoke: bool) -> Rows:
    return _preset("ladder", workflows=2, rho=[1.0], burst=False) if smoke else _preset("ladder")
