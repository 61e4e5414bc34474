"""Recorded epochs: a moment told again is the moment; the committed ones are what their manifest says."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.epochs import COMMITTED, GENERATED, Epoch, Surge, _Spread, committed, load
from benchmarks.history import History, snapshot_file
from benchmarks.scenes import cluster_file, cluster_of
from hexsolve.engine import PlacementEngine
from hexsolve.sim import simulate
from hexsolve.snapshot import Snapshot
from hexsolve.study import build_workload
from hexsolve.study.hints import declare, typical_lengths
from hexsolve.tables import DECODE, TRANSFER

EXACT = ("stage", "input_tokens", "cached_tokens", "predicted_tokens", "restored_tokens", "kv_blocks", "step")
CLOSE = (
    *("ready_ms", "revealed_ms", "arrival_ms", "horizon_ms", "whole_ms", "tail_ms"),
    *("alone_start_ms", "alone_finish_ms", "service_ms"),
)


class _Watching(History):
    """Keeps every 40th decision: the live snapshot and the events that should lead to it."""

    def __init__(self, engine: PlacementEngine, cluster: Any) -> None:
        super().__init__(engine, cluster)
        self.kept: list[tuple[Snapshot, list[Any]]] = []
        self._decisions = 0

    def decide(self, now_ms: float) -> Sequence[int]:
        self._decisions += 1
        if self._decisions % 40 == 0:
            self.kept.append((self.engine.state.snapshot(now_ms, names=True), self.events(now_ms)))
        return super().decide(now_ms)


@pytest.mark.parametrize(("source", "share_declared"), [("text2sql", 0.0), ("coding", 0.0), ("text2sql", 0.5)])
def test_a_moment_told_again_is_the_moment(source: str, share_declared: float, tmp_path: Any) -> None:
    cluster = cluster_of(4, 4)
    watching = _Watching(PlacementEngine(cluster, "hexagent"), cluster)
    workload = build_workload(source, 24, 7, cluster=cluster, load=1.2)
    declared = declare(workload, typical_lengths(workload.workflows), share=share_declared)
    simulate(cluster, workload, watching, declared=declared)
    assert len(watching.kept) >= 5
    for live, events in watching.kept:
        path = tmp_path / "moment.json"
        path.write_bytes(snapshot_file(cluster_file(4, 4), live.now_ms, events, ""))
        _check_same(live, load(path))


def _check_same(live: Snapshot, told: Snapshot) -> None:
    assert told.now_ms == pytest.approx(live.now_ms, abs=1e-3)
    mine, theirs = _by_reveal(live), _by_reveal(told)
    for name in EXACT:
        np.testing.assert_array_equal(theirs.calls[name], mine.calls[name], err_msg=name)
    for name in CLOSE:
        np.testing.assert_allclose(theirs.calls[name], mine.calls[name], atol=0.1, err_msg=name)
    np.testing.assert_allclose(theirs.prefill_ms, mine.prefill_ms)
    # A prefix slot has another number in the file's state; what each replica holds of it is the same.
    np.testing.assert_array_equal(
        theirs.held_tokens[theirs.calls["prefix"]], mine.held_tokens[mine.calls["prefix"]], err_msg="held"
    )
    served = mine.calls["stage"] >= TRANSFER
    np.testing.assert_array_equal(theirs.calls["decode"][served], mine.calls["decode"][served])
    np.testing.assert_allclose(_busy_ms(theirs), _busy_ms(mine), atol=2e-3)
    np.testing.assert_array_equal(theirs.decodes["running"], mine.decodes["running"])
    # Steps of a running call are told as whole tokens: one token a call is the most that can be off.
    np.testing.assert_allclose(_steps_done(theirs), _steps_done(mine), atol=1.01)


def _by_reveal(snapshot: Snapshot) -> Snapshot:
    order = np.argsort(snapshot.calls["serial"])
    return replace(snapshot, calls=snapshot.calls[order], prefill_ms=snapshot.prefill_ms[order])


def _busy_ms(snapshot: Snapshot) -> Any:
    return np.maximum(0.0, snapshot.prefills["free_ms"] - snapshot.now_ms)


def _steps_done(snapshot: Snapshot) -> Any:
    running = snapshot.calls[snapshot.calls["stage"] == DECODE]
    decodes = snapshot.decodes[running["decode"]]
    since_ms = snapshot.now_ms - decodes["last_ms"]
    steps = decodes["steps"] + since_ms / np.maximum(decodes["step_ms"], 1e-6)
    return np.minimum(steps - running["step_mark"], running["predicted_tokens"])


def test_committed_epochs_are_as_their_manifest_says() -> None:
    entries = json.loads((COMMITTED / "manifest.json").read_bytes())["files"]
    assert sorted(entry["file"] for entry in entries) == sorted(path.name for path in COMMITTED.glob("*.gz"))
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 1_000_000
    for entry in entries:
        assert hashlib.sha256((COMMITTED / entry["file"]).read_bytes()).hexdigest() == entry["digest"]
        assert entry["workload"] in GENERATED  # our own, not a copy of a trace
        assert entry["seed"] < 100


@pytest.mark.parametrize("epoch", committed()[::3], ids=lambda epoch: epoch.name)
def test_so_many_calls_wait_as_the_name_says(epoch: Epoch) -> None:
    snapshot = epoch.snapshot()
    assert len(snapshot.waiting) == epoch.waiting
    assert (len(snapshot.prefills), len(snapshot.decodes)) == (epoch.replicas, epoch.replicas)


def test_a_surge_has_the_rates_it_is_told() -> None:
    times_ms = Surge(10.0, 40.0, calm=4000).times_ms(8000, np.random.default_rng(1))
    gaps_ms = np.diff(times_ms, prepend=0.0)
    assert gaps_ms[:4000].mean() == pytest.approx(100.0, rel=0.05)
    assert gaps_ms[4000:].mean() == pytest.approx(25.0, rel=0.05)


@pytest.mark.parametrize("offered", [1, 2, 3, 5, 17, 100])
def test_what_is_kept_is_spread_over_all_that_came(offered: int) -> None:
    spread = _Spread(3)
    for i in range(offered):
        if spread.wants_next():
            spread.keep((float(i), []))
    kept = [time_ms for time_ms, _ in spread.kept()]
    assert len(kept) == min(3, offered)
    assert kept == sorted(set(kept))
    if offered >= 12:
        assert kept[0] == 0
        assert kept[-1] >= offered / 2
