"""What the simulator asks of an engine. Knows signatures only, so that tests and policies can stand in freely."""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class StatePort(Protocol):
    """The events the simulator reports and the placement columns it reads (indexed by call slot, -1 = none)."""

    @property
    def prefill(self) -> NDArray[Any]: ...
    @property
    def decode(self) -> NDArray[Any]: ...
    @property
    def rank(self) -> NDArray[Any]: ...
    @property
    def rank_revision(self) -> int: ...

    def workflow_open(
        self, now_ms: float, workflow_id: str, workflow_class: str = "", arrival_ms: float | None = None, /
    ) -> int: ...
    def workflow_declared(self, now_ms: float, workflow_slot: int, calls: Sequence[Any], /) -> object: ...
    def call_ready(
        self,
        now_ms: float,
        workflow_slot: int,
        request_id: str,
        /,
        *,
        input_tokens: int,
        predicted_output_tokens: int,
        dependencies: tuple[str, ...] = (),
        kind: str = "",
        cached_prefix_tokens: int = 0,
        prefix_group: str = "",
    ) -> int: ...
    def prefill_started(self, now_ms: float, slot: int, replica_index: int, cached_tokens: int, /) -> object: ...
    def prefill_batch(self, now_ms: float, replica_index: int, expected_end_ms: float, /) -> object: ...
    def prefill_done(self, now_ms: float, slot: int, /) -> object: ...
    def transfer_done(self, now_ms: float, slot: int, /) -> object: ...
    def decode_started(self, now_ms: float, slot: int, /) -> object: ...
    def call_progress(
        self, now_ms: float, slot: int, generated_tokens: int, predicted_output_tokens: int, /
    ) -> object: ...
    def call_done(self, now_ms: float, slot: int, output_tokens: int, /) -> object: ...
    def call_requeued(self, now_ms: float, slot: int, generated_tokens: int, /) -> object: ...
    def prefix_held(self, workflow_slot: int, prefix_group: str, replica_index: int, tokens: int, /) -> object: ...
    def replica_down(self, now_ms: float, role: str, index: int, /) -> object: ...
    def replica_up(self, now_ms: float, role: str, index: int, /) -> object: ...
    def workflow_close(self, now_ms: float, workflow_slot: int, /) -> object: ...


class EnginePort(Protocol):
    """The engine as the simulator drives it; `needs_decision` is asked once per kind of event, before the run."""

    @property
    def state(self) -> StatePort: ...

    def decide(self, now_ms: float) -> Sequence[int]: ...
    def next_wakeup_ms(self) -> float: ...
    def needs_decision(self, event_kind: str) -> bool: ...


EVENT_KINDS = (
    "workflow_open",
    "call_ready",
    "prefill_started",
    "prefill_done",
    "transfer_done",
    "decode_started",
    "call_progress",
    "call_requeued",
    "call_done",
    "workflow_close",
    "replica_down",
    "replica_up",
)
