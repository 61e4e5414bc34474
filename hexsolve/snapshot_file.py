"""Snapshot files: one moment of a cluster as the events that led to it. Knows the format; plans nothing.

    {"schema": "hexsolve.snapshot.v1",
     "cluster": "demo",                  // a packaged name, a file beside this one, or a cluster's content
     "now_ms": 2500.0,
     "events": [{"type": "workflow_open", "now_ms": 0.0, "workflow_id": "w1"},
                {"type": "call_ready", "now_ms": 0.0, "workflow_id": "w1", "request_id": "plan",
                 "input_tokens": 4000, "predicted_output_tokens": 300}, ...]}

The events are those of `hexsolve.events`, in order of time, and one more: ``placed`` says where the engine of that time
sent a call, which a call must have been told before its ``prefill_started``. Here, unlike in a live engine, an event
that cannot be true is an error.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from hexsolve import events as ev
from hexsolve.catalog import instances_dir, library, load_cluster
from hexsolve.cluster import Cluster, Replica
from hexsolve.cluster_file import read_cluster_text
from hexsolve.datafile import nearest
from hexsolve.engine import PlacementEngine
from hexsolve.errors import InputError
from hexsolve.io.lines import decode
from hexsolve.policies import build_policy
from hexsolve.policy import Policy
from hexsolve.state import ClusterState
from hexsolve.tables import WAIT_PREFILL

SCHEMA = "hexsolve.snapshot.v1"


class Placed(msgspec.Struct, frozen=True, kw_only=True, tag="placed", tag_field="type", forbid_unknown_fields=True):
    """The engine had sent a waiting call to these replicas."""

    now_ms: float
    workflow_id: str
    request_id: str
    prefill: str
    decode: str


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    schema: Literal["hexsolve.snapshot.v1"]
    cluster: str | dict[str, Any]
    now_ms: float
    events: list[msgspec.Raw]
    description: str = ""


@dataclass(frozen=True)
class SavedSnapshot:
    """A snapshot file, read; `label` names it in errors."""

    label: str
    cluster: Cluster
    now_ms: float
    events: tuple[ev.Event | Placed, ...]


def read_snapshot(name_or_path: str | Path) -> SavedSnapshot:
    """A packaged snapshot by name, or a file.

    Raises
    ------
    InputError
        If there is none, it is not well-formed JSON, or a
        field is wrong (``file: events[3].input_tokens: expected ...``).
    """
    label, content = _text(name_or_path)
    try:
        json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = f"{label}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else label
        raise InputError(f"{where}: expected well-formed JSON in UTF-8 ({error})") from error
    file = decode(content, _File, label)
    events = tuple(_event(raw, label, index) for index, raw in enumerate(file.events))
    if events and file.now_ms < events[-1].now_ms:
        raise InputError(
            f"{label}: now_ms = {file.now_ms:g}: expected a time >= {events[-1].now_ms:g} (the last event's)"
        )
    return SavedSnapshot(label, _cluster(file.cluster, label, Path(name_or_path).parent), file.now_ms, events)


def snapshot_text(cluster: str | dict[str, Any], now_ms: float, events: Iterable[ev.Event | Placed]) -> str:
    """The text of a snapshot file, an event a line. `cluster` as in the file: a name, a path or its content."""
    lines = ",\n".join(f"  {msgspec.json.encode(event).decode()}" for event in events)
    head = f' "schema": {json.dumps(SCHEMA)},\n "cluster": {json.dumps(cluster)},\n "now_ms": {json.dumps(now_ms)}'
    return f'{{\n{head},\n "events": [\n{lines}\n ]\n}}\n'


def restore(saved: SavedSnapshot, policy: Policy | str) -> PlacementEngine:
    """An engine that has been told every event.

    Raises
    ------
    InputError
        On an unknown policy, or an event that cannot be true: its index, its type and the reason.
    """
    built = build_policy(policy) if isinstance(policy, str) else policy
    clock_ms = saved.events[0].now_ms if saved.events else saved.now_ms
    engine = PlacementEngine(saved.cluster, built, clock_ms=clock_ms)
    for index, event in enumerate(saved.events):
        where = f"{saved.label}: events[{index}] ({type(event).__struct_config__.tag})"
        if isinstance(event, Placed):
            _place(engine.state, event, where)
        else:
            _tell(engine, event, where)
    return engine


def _tell(engine: PlacementEngine, event: ev.Event, where: str) -> None:
    state = engine.state
    before, refused = state.anomalies.copy(), set(state.refused)
    engine.tell(event)
    for call in state.refused.keys() - refused:
        raise InputError(f"{where}: {state.refused[call]}")
    for anomaly in state.anomalies - before:
        raise InputError(f"{where}: {_reason(anomaly)}")


def _reason(anomaly: str) -> str:
    """What the state counted, as an error."""
    reason = anomaly.partition(": ")[2]
    if anomaly == "clock: went backwards":
        return "now_ms: expected times that do not go back, got one before the last event's"
    if reason == "call without placement":
        return "expected a 'placed' event for this call before it, got none"
    return f"expected an event that can be true here, got {reason}"


def _place(state: ClusterState, event: Placed, where: str) -> None:
    prefill = _index(state.cluster.prefill, event.prefill, f"{where}: prefill")
    decode_index = _index(state.cluster.decode, event.decode, f"{where}: decode")
    records = (record for record in state.workflows.values() if record.workflow_id == event.workflow_id)
    slot = next((record.slots.get(event.request_id, -1) for record in records), -1)
    if slot < 0 or state.stage[slot] != WAIT_PREFILL:
        raise InputError(f"{where}: expected a call that waits for prefill, got {event.workflow_id}/{event.request_id}")
    state.prefill[slot], state.decode[slot] = prefill, decode_index


def _index(pool: tuple[Replica, ...], name: str, where: str) -> int:
    names = [replica.name for replica in pool]
    if name not in names:
        raise InputError(f"{where}: {name!r}: no such replica; {nearest(name, names)}")
    return names.index(name)


def _event(raw: msgspec.Raw, label: str, index: int) -> ev.Event | Placed:
    inside = f"events[{index}]"
    tag = decode(raw, dict[str, Any], label, inside=inside).get("type")
    if tag == "placed":
        return decode(raw, Placed, label, inside=inside)
    kinds = [kind.__struct_config__.tag for kind in ev.Event.__args__]
    if tag not in kinds:
        raise InputError(f"{label}: {inside}.type = {tag!r}: no such event; {nearest(str(tag), [*kinds, 'placed'])}")
    event: ev.Event = decode(raw, ev.Event, label, inside=inside)  # type: ignore[arg-type]
    return event


def _cluster(given: str | dict[str, Any], label: str, folder: Path) -> Cluster:
    if isinstance(given, dict):
        return read_cluster_text(json.dumps(given), f"{label}: cluster", ".json", library())
    beside = folder / given
    return load_cluster(beside if beside.is_file() else given)


def _text(name_or_path: str | Path) -> tuple[str, bytes]:
    """Label and content."""
    path = Path(name_or_path)
    if path.suffix or path.exists():
        try:
            return str(path), path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: expected a readable file, got {error.strerror}") from error
    folder = instances_dir() / "snapshots"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    names = sorted(str(entry["file"]).removesuffix(".json") for entry in manifest["files"])
    if str(name_or_path) in names:
        return f"{name_or_path}.json", (folder / f"{name_or_path}.json").read_bytes()
    raise InputError(f"snapshot {str(name_or_path)!r}: no such file or name; {nearest(str(name_or_path), names)}")
