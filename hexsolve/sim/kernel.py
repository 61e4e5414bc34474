"""The event queue. Knows times, priorities and handlers; knows nothing of calls, replicas or engines."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Handler = Callable[[float, Any], None]
"""Called as ``handler(now_ms, arg)`` when its event is due."""

# Order of events that are due at the same instant: what ends comes before what begins.
FAULT, DECODE_END, TRANSFER_END, PREFILL_END, REVEAL, WAKE_UP = range(6)


class SimulationError(RuntimeError):
    """The simulation cannot go on: the message says what is stuck and why."""


class Kernel:
    """A heap of (time_ms, priority, serial, handler, arg): ties by priority, then by order of scheduling."""

    __slots__ = ("_heap", "now_ms", "num_scheduled")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, Handler, Any]] = []
        self.num_scheduled = 0
        self.now_ms = 0.0

    def at(self, time_ms: float, priority: int, handler: Handler, arg: Any) -> None:
        """Schedule `handler`; SimulationError if the time is past or not a number."""
        if not time_ms >= self.now_ms:
            raise SimulationError(f"event at {time_ms} ms: expected a time >= {self.now_ms} ms (now)")
        self.num_scheduled = serial = self.num_scheduled + 1
        heappush(self._heap, (time_ms, priority, serial, handler, arg))

    def run(self, settle: Callable[[float], bool]) -> None:
        """Process events in order; after all events of an instant call ``settle(now_ms)``, until it says True.

        `settle` may schedule further events at the same instant: they are processed and it is called again.
        """
        heap = self._heap
        while heap:
            now_ms = self.now_ms = heap[0][0]
            while heap and heap[0][0] == now_ms:
                event = heappop(heap)
                event[3](now_ms, event[4])
            if settle(now_ms):
                return
