"""Choices of a simulation run. Knows ranges and names; knows nothing of how they are acted on."""

import math
from dataclasses import dataclass
from typing import Literal

from hexsolve.errors import InputError


@dataclass(frozen=True, slots=True)
class Fault:
    """A replica goes down (its KV is lost) or comes up again.

    Raises
    ------
    InputError
        If a field is outside its range.
    """

    time_ms: float
    role: Literal["prefill", "decode"]
    index: int
    change: Literal["down", "up"]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_ms) and self.time_ms >= 0):
            raise InputError(f"fault time_ms: expected a finite number >= 0, got {self.time_ms!r}")
        if self.role not in ("prefill", "decode"):
            raise InputError(f"fault role: expected prefill or decode, got {self.role!r}")
        if self.index < 0:
            raise InputError(f"fault index: expected an int >= 0, got {self.index!r}")
        if self.change not in ("down", "up"):
            raise InputError(f"fault change: expected down or up, got {self.change!r}")


@dataclass(frozen=True, slots=True)
class SimOptions:
    """How the simulated cluster behaves where serving systems differ.

    Parameters
    ----------
    chunk_tokens : int or None
        Most prompt tokens of one call in one prefill batch, >= 1; None prefills a prompt in one piece.
    growth_tokens : int
        Least tokens by which a call's KV reservation grows when it outlives its prediction, >= 1.
    pushback : {"recompute", "reload"}
        What a call that must leave a full decode replica pays: prefill of prompt and generated tokens again, or
        bringing its KV back from host memory.
    host_bandwidth_gb_s : float
        Host-to-GPU bandwidth of a decode replica, > 0; the default is what PCIe 4.0 x16 delivers.
    faults : tuple of Fault
        Replica failures and returns, in any order.
    record_events : bool
        Keep an event log (costs memory; for tests and timelines).

    Raises
    ------
    InputError
        If a field is outside its range.
    """

    chunk_tokens: int | None = None
    growth_tokens: int = 64
    pushback: Literal["recompute", "reload"] = "recompute"
    host_bandwidth_gb_s: float = 25.0
    faults: tuple[Fault, ...] = ()
    record_events: bool = False

    def __post_init__(self) -> None:
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise InputError(f"chunk_tokens: expected an int >= 1 or None, got {self.chunk_tokens!r}")
        if self.growth_tokens < 1:
            raise InputError(f"growth_tokens: expected an int >= 1, got {self.growth_tokens!r}")
        if self.pushback not in ("recompute", "reload"):
            raise InputError(f"pushback: expected recompute or reload, got {self.pushback!r}")
        if not (math.isfinite(self.host_bandwidth_gb_s) and self.host_bandwidth_gb_s > 0):
            raise InputError(f"host_bandwidth_gb_s: expected a finite number > 0, got {self.host_bandwidth_gb_s!r}")
        if any(type(fault) is not Fault for fault in self.faults):
            raise InputError(f"faults: expected a tuple of Fault, got {self.faults!r:.80}")
