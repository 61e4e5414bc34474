"""Snapshot files: what they rebuild, and what they refuse."""

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hexsolve import events as ev
from hexsolve.catalog import instances_dir
from hexsolve.errors import InputError
from hexsolve.snapshot_file import Placed, read_snapshot, restore, snapshot_text
from hexsolve.tables import DECODE, WAIT_PREFILL

Write = Callable[..., Path]


def ready(now_ms: float, request_id: str, **more: Any) -> ev.CallReady:
    fields = {"workflow_id": "w", "input_tokens": 800, "predicted_output_tokens": 50} | more
    return ev.CallReady(now_ms=now_ms, request_id=request_id, **fields)


ON_THE_WAY: list[ev.Event | Placed] = [
    ev.WorkflowOpen(now_ms=0.0, workflow_id="w", workflow_class="chat"),
    ready(0.0, "a"),
    ready(1.0, "b", input_tokens=300),
    Placed(now_ms=1.0, workflow_id="w", request_id="a", prefill="P1-A100", decode="D1-A100"),
    ev.PrefillStarted(now_ms=2.0, workflow_id="w", request_id="a", replica="P1-A100", expected_end_ms=200.0),
    ev.PrefillDone(now_ms=200.0, workflow_id="w", request_id="a"),
    ev.TransferDone(now_ms=240.0, workflow_id="w", request_id="a"),
    ev.DecodeStarted(now_ms=240.0, workflow_id="w", request_id="a"),
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(events: list[Any], now_ms: float = 1000.0, cluster: Any = "demo", **more: Any) -> Path:
        content = json.loads(snapshot_text("demo", now_ms, [])) | {"events": events, "cluster": cluster} | more
        path = tmp_path / "s.json"
        path.write_text(json.dumps(content))
        return path

    return to_file


def test_a_file_rebuilds_the_state(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(snapshot_text("demo", 500.0, ON_THE_WAY))
    saved = read_snapshot(tmp_path / "s.json")
    assert saved.events == tuple(ON_THE_WAY)
    state = restore(saved, "hexagent").state
    snapshot = state.snapshot(saved.now_ms, names=True)
    by_name = dict(zip((name for _, name in snapshot.names), snapshot.calls, strict=True))
    assert by_name["a"]["stage"] == DECODE
    assert (by_name["a"]["prefill"], by_name["a"]["decode"]) == (1, 1)
    assert by_name["b"]["stage"] == WAIT_PREFILL
    assert snapshot.decodes["running"].tolist() == [0, 1]
    assert (snapshot.now_ms, sum(state.anomalies.values())) == (500.0, 0)


def test_the_packaged_example_is_as_its_manifest_says() -> None:
    folder: Traversable = instances_dir() / "snapshots"
    (entry,) = json.loads((folder / "manifest.json").read_text())["files"]
    content = (folder / entry["file"]).read_bytes()
    assert sha256(content).hexdigest() == entry["digest"]
    saved = read_snapshot("demo")
    waiting = restore(saved, "round-robin").state.snapshot(saved.now_ms).waiting
    assert len(waiting) == 8


def test_a_cluster_may_be_inline_or_beside_the_file(write: Write, tmp_path: Path) -> None:
    content = {"llm": "llama3.1-70b", "prefill": [{"gpu": "H100", "tp": 4}], "decode": [{"gpu": "H100", "tp": 4}]}
    assert read_snapshot(write([], cluster=content)).cluster.num_decode == 1
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert read_snapshot(write([], cluster="mine.json")).cluster.name == "mine"
    with pytest.raises(InputError, match=r"cluster: .*decode"):
        read_snapshot(write([], cluster=content | {"decode": []}))


OPEN = {"type": "workflow_open", "now_ms": 5.0, "workflow_id": "w"}
READY = {
    "type": "call_ready",
    "now_ms": 5.0,
    "workflow_id": "w",
    "request_id": "a",
    "input_tokens": 10,
    "predicted_output_tokens": 5,
}
PLACED = {
    "type": "placed",
    "now_ms": 6.0,
    "workflow_id": "w",
    "request_id": "a",
    "prefill": "P0-H100",
    "decode": "D0-H200",
}
STARTED = {
    "type": "prefill_started",
    "now_ms": 6.0,
    "workflow_id": "w",
    "request_id": "a",
    "replica": "P0-H100",
    "expected_end_ms": 9.0,
}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([OPEN, OPEN], ("events[1] (workflow_open)", "duplicate")),
        ([READY], ("events[0] (call_ready)", "unknown workflow")),
        ([OPEN, READY | {"now_ms": 4.0}], ("events[1] (call_ready)", "now_ms", "go back")),
        ([OPEN, READY | {"input_tokens": 0}], ("events[1]", "token counts out of range")),
        ([OPEN, READY | {"input_tokens": 9_000_000}], ("'a'", "'w'", "9000000", "1185775")),
        ([OPEN, READY | {"input_tokens": "many"}], ("events[1].input_tokens", "int", "str")),
        ([OPEN, READY | {"inputs": 3}], ("events[1].inputs", "no such field")),
        ([OPEN, {"type": "call_redy", "now_ms": 5.0}], ("events[1].type", "did you mean 'call_ready'?")),
        ([OPEN, {"now_ms": 5.0}], ("events[1].type", "placed")),
        ([OPEN, 7], ("events[1]", "object")),
        ([OPEN, READY, STARTED], ("events[2] (prefill_started)", "'placed' event")),
        ([OPEN, READY, PLACED | {"prefill": "P0-H10"}], ("events[2]", "did you mean 'P0-H100'?")),
        ([OPEN, READY, PLACED | {"request_id": "b"}], ("events[2] (placed)", "w/b")),
        ([OPEN, READY, PLACED, STARTED, PLACED], ("events[4] (placed)", "waits for prefill")),
        ([OPEN, READY, PLACED, STARTED | {"replica": "D0-H200"}], ("events[3]", "unknown prefill replica")),
    ],
)
def test_what_cannot_be_true_is_named_by_its_index(write: Write, events: list[Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        restore(read_snapshot(write(events)), "round-robin")
    for word in ("s.json", *words):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"schema": "hexsolve.snapshot.v2"}, ("schema", "v2")),
        ({"now_ms": "soon"}, ("now_ms", "float", "str")),
        ({"now_ms": 1.0}, ("now_ms = 1", ">= 5")),
        ({"cluster": "dem"}, ("did you mean 'demo'?",)),
        ({"event": []}, ("event", "no such field")),
    ],
)
def test_wrong_fields_are_named(write: Write, more: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        read_snapshot(write([OPEN], **more))
    for word in words:
        assert word in str(error.value)


def test_broken_json_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"schema": "hexsolve.snapshot.v1",\n "cluster": "demo"\n "now_ms": 3}')
    with pytest.raises(InputError, match=r"s\.json:3: expected well-formed JSON"):
        read_snapshot(tmp_path / "s.json")
    with pytest.raises(InputError, match=r"none\.json: expected a readable file"):
        read_snapshot(tmp_path / "none.json")


@given(st.lists(st.sampled_from([OPEN, READY, PLACED, STARTED, STARTED | {"type": "call_done"}]), max_size=6))
def test_any_order_of_events_is_read_or_refused_in_words(tmp_path_factory: Any, events: list[Any]) -> None:
    path = tmp_path_factory.mktemp("any") / "s.json"
    events = sorted(events, key=lambda event: event["now_ms"])
    path.write_text(json.dumps({"schema": "hexsolve.snapshot.v1", "cluster": "demo", "now_ms": 9.0, "events": events}))
    try:
        state = restore(read_snapshot(path), "round-robin").state
    except InputError as error:
        refusal = str(error)
    else:
        assert not state.anomalies
        return
    assert "events[" in refusal
