"""What a serving system tells the engine, as data. Knows fields; knows nothing of what an event does.

Times are milliseconds on the caller's own clock, non-decreasing. Calls are named by (workflow_id, request_id), replicas
by their name in the cluster. As JSON each event is an object with `"type"`: its class name in snake case.
"""

from typing import TypeAlias

import msgspec


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=_snake, tag_field="type", forbid_unknown_fields=True):
    now_ms: float


class WorkflowOpen(_Event, frozen=True, kw_only=True):
    """A workflow arrived."""

    workflow_id: str
    workflow_class: str = ""


class DeclaredCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the client expects, by the name it will have. Counts in tokens, the tool delay before it in ms."""

    request_id: str
    dependencies: tuple[str, ...] = ()
    input_tokens: int
    output_tokens: int
    cached_prefix_tokens: int = 0
    delay_ms: float = 0.0


class WorkflowDeclared(_Event, frozen=True, kw_only=True):
    """What the client expects of an open workflow: a hint, complete or not, never trusted to be right."""

    workflow_id: str
    calls: tuple[DeclaredCall, ...]


class CallReady(_Event, frozen=True, kw_only=True):
    """A call is revealed: its dependencies are done and its tool has returned. Counts in tokens."""

    workflow_id: str
    request_id: str
    input_tokens: int
    predicted_output_tokens: int
    dependencies: tuple[str, ...] = ()
    kind: str = ""
    cached_prefix_tokens: int = 0
    prefix_group: str = ""


class PrefillStarted(_Event, frozen=True, kw_only=True):
    """A prefill replica took the call into a batch that is expected to end at `expected_end_ms`."""

    workflow_id: str
    request_id: str
    replica: str
    expected_end_ms: float
    cached_tokens: int = 0


class PrefillDone(_Event, frozen=True, kw_only=True):
    """Prefill ended, the KV transfer begins."""

    workflow_id: str
    request_id: str


class TransferDone(_Event, frozen=True, kw_only=True):
    """The KV is at the decode replica."""

    workflow_id: str
    request_id: str


class DecodeStarted(_Event, frozen=True, kw_only=True):
    """The call joined the running batch."""

    workflow_id: str
    request_id: str


class CallProgress(_Event, frozen=True, kw_only=True):
    """Tokens so far and the refined prediction, both of the whole call."""

    workflow_id: str
    request_id: str
    generated_tokens: int
    predicted_output_tokens: int


class CallDone(_Event, frozen=True, kw_only=True):
    """The call completed."""

    workflow_id: str
    request_id: str
    output_tokens: int


class CallRequeued(_Event, frozen=True, kw_only=True):
    """The call was pushed back or lost its replica; it waits for prefill again."""

    workflow_id: str
    request_id: str
    generated_tokens: int


class PrefixHeld(_Event, frozen=True, kw_only=True):
    """A prefill replica holds this many tokens of a workflow's prefix now; 0 = evicted."""

    workflow_id: str
    prefix_group: str
    replica: str
    tokens: int


class ReplicaDown(_Event, frozen=True, kw_only=True):
    """A replica is lost with its KV; every call in service there waits for prefill again."""

    replica: str


class ReplicaUp(_Event, frozen=True, kw_only=True):
    """A replica is back, empty."""

    replica: str


class WorkflowClose(_Event, frozen=True, kw_only=True):
    """The client is done with the workflow."""

    workflow_id: str


Event: TypeAlias = (
    WorkflowOpen
    | WorkflowDeclared
    | CallReady
    | PrefillStarted
    | PrefillDone
    | TransferDone
    | DecodeStarted
    | CallProgress
    | CallDone
    | CallRequeued
    | PrefixHeld
    | ReplicaDown
    | ReplicaUp
    | WorkflowClose
)


def decode_event(line: bytes | str) -> Event:
    """One event from JSON.

    Raises
    ------
    msgspec.ValidationError, msgspec.DecodeError
        Naming the field, what was expected and what came.
    """
    event: Event = msgspec.json.decode(line, type=Event)
    return event
