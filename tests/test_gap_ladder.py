"""The committed ladder: instances are what their specs generate, schedules reach what is said, bounds hold anew."""

import json

import numpy as np
import pytest

from benchmarks import gap_ladder
from benchmarks.gap_ladder import (
    FOLDER,
    MOST_KEPT_CALLS,
    NAMES,
    POLICIES,
    RUNGS,
    Rig,
    load_manifest,
    load_schedules,
    merged,
)
from hexsolve.clairvoyant import OBJECTIVES, Limits
from hexsolve.study.gap_bounds import MOST_EXACT_CALLS, certified_bounds

MANIFEST = load_manifest()
SMALL = [rung for rung in RUNGS if rung.name.startswith(("tiny", "small"))]


def test_every_rung_has_an_entry_that_says_the_same():
    assert set(MANIFEST) == {rung.name for rung in RUNGS}
    for rung in RUNGS:
        entry = MANIFEST[rung.name]
        assert (entry["cluster"], entry["workload"], entry["workflows"]) == (
            rung.cluster,
            rung.workload,
            rung.workflows,
        )
        assert (entry["rho"], entry["seed"]) == (rung.rho, rung.seed)


@pytest.mark.parametrize("name", list(MANIFEST))
def test_brackets_are_brackets(name):
    for objective, found in MANIFEST[name]["objectives"].items():
        assert 0 < found["bound"]["value"] <= found["best"]["value"], objective
        assert found["bound"]["binds"] in ("prefill", "decode", "kv", "path")
        for part in found.values():
            assert part["command"].startswith("python -m benchmarks.gap_ladder")
            assert part["date"] >= "2026-11-21"


def test_schedules_are_kept_where_they_are_small():
    there = {path.name.removesuffix(".json.gz") for path in (FOLDER / "schedules").iterdir()}
    assert there == {name for name, entry in MANIFEST.items() if entry["num_calls"] <= MOST_KEPT_CALLS}


@pytest.mark.parametrize("rung", SMALL, ids=lambda rung: rung.name)
def test_small_instances_recomputed(rung):
    entry, rig = MANIFEST[rung.name], Rig(rung)
    assert entry["digest"] == rig.workload.digest()
    assert entry["num_calls"] == rig.workload.num_calls
    schedules = load_schedules(rung.name)
    bounds = certified_bounds(rig.instance.problem, NAMES)
    for name in NAMES:
        best, bound = entry["objectives"][name]["best"], entry["objectives"][name]["bound"]
        if best["by"] in POLICIES:
            value = OBJECTIVES[name].value(rig.known([best["by"]])[best["by"]])
        else:
            value = rig.value(name, schedules[name])
        assert value == pytest.approx(best["value"], rel=1e-9)
        assert bounds[name].value <= value
        if entry["num_calls"] > MOST_EXACT_CALLS:  # the others have bounds of exact solves, which take too long here
            assert bounds[name].value >= 0.98 * bound["value"]


def test_a_schedule_survives_its_file(tmp_path, monkeypatch):
    rung = RUNGS[0]
    fresh, found = gap_ladder.compute(rung, Limits(runs=25), 0.0, {"command": "c", "date": "d"})
    gap_ladder._keep(fresh, found, fresh, tmp_path)
    assert load_manifest(tmp_path)[rung.name] == json.loads(json.dumps(fresh))
    for name, schedule in load_schedules(rung.name, tmp_path).items():
        assert np.argsort(schedule.key).tolist() == np.argsort(found[name].key, kind="stable").tolist()
        assert Rig(rung).value(name, schedule) == fresh["objectives"][name]["best"]["value"]


def test_what_is_better_is_kept_and_a_contradiction_is_refused():
    def entry(bound, best, digest="d"):
        objectives = {name: {"bound": {"value": bound}, "best": {"value": best}} for name in NAMES}
        return {"name": "x", "digest": digest, "objectives": objectives}

    assert merged(None, entry(1, 2)) == entry(1, 2)
    assert merged(entry(1, 2), entry(1.5, 3)) == entry(1.5, 2)
    assert merged(entry(1, 2), entry(1.5, 3, "another")) == entry(1.5, 3, "another")
    with pytest.raises(ValueError, match="one of them is wrong"):
        merged(entry(1, 2), entry(2.5, 3))
