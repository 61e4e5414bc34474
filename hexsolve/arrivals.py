"""When workflows arrive. Knows arrival processes and re-timing; knows nothing of what the workflows contain.

No public trace joins real arrivals with real DAGs (DESIGN §6), so arrivals are a separate choice: generated or replayed
times are laid over a workload. Every process draws its times in order, so the first k of n times do not depend on n.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hexsolve.errors import InputError
from hexsolve.workflow import Workload

Times = NDArray[np.float64]
_ARRIVALS_KEY = 0xA221  # keeps the arrival stream apart from the per-workflow streams of the same seed


def _check_positive(value: float, where: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{where}: expected a finite number > 0, got {value!r}")


class Arrivals(Protocol):
    """An arrival process."""

    def times_ms(self, num: int, rng: np.random.Generator) -> Times:
        """`num` arrival times, ascending, >= 0; the first `k` do not depend on `num`."""
        ...


@dataclass(frozen=True, slots=True)
class AllAtOnce:
    """Burst and drain: everything arrives at time 0."""

    def times_ms(self, num: int, rng: np.random.Generator) -> Times:
        """Zeros; nothing is drawn."""
        return np.zeros(num)


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals (CV of gaps 1), such as the Azure conversation trace (CV 1.1)."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _check_positive(self.rate_per_s, "Poisson: rate_per_s")

    def times_ms(self, num: int, rng: np.random.Generator) -> Times:
        """Exponential gaps."""
        return np.cumsum(rng.exponential(1e3 / self.rate_per_s, num))


@dataclass(frozen=True, slots=True)
class GammaGaps:
    """Gamma-distributed gaps: one knob for burstiness, `cv` 0.. (1 is Poisson, above 1 bursty)."""

    rate_per_s: float
    cv: float

    def __post_init__(self) -> None:
        _check_positive(self.rate_per_s, "GammaGaps: rate_per_s")
        _check_positive(self.cv, "GammaGaps: cv")

    def times_ms(self, num: int, rng: np.random.Generator) -> Times:
        """Gamma gaps with shape 1/cv²."""
        shape = self.cv**-2
        return np.cumsum(rng.gamma(shape, 1e3 / (self.rate_per_s * shape), num))


@dataclass(frozen=True, slots=True)
class OnOff:
    """Bursts apart from each other: an interrupted Poisson process.

    Within a burst the gaps are exponential; after each arrival the burst ends with probability 1/`burst_calls` and an
    exponential idle gap follows instead. At very high CV this is what the Azure code trace looks like, where gamma gaps
    would be simultaneous arrivals.

    Parameters
    ----------
    rate_per_s : float
        Overall rate, > 0.
    burst_calls : float
        Mean arrivals per burst, > 1.
    idle_share : float
        Share of all time spent in idle gaps, in (0, 1).
    """

    rate_per_s: float
    burst_calls: float
    idle_share: float

    def __post_init__(self) -> None:
        _check_positive(self.rate_per_s, "OnOff: rate_per_s")
        if not (math.isfinite(self.burst_calls) and self.burst_calls > 1):
            raise InputError(f"OnOff: burst_calls: expected a finite number > 1, got {self.burst_calls!r}")
        if not 0 < self.idle_share < 1:
            raise InputError(f"OnOff: idle_share: expected a number in (0, 1), got {self.idle_share!r}")

    @property
    def gap_means_ms(self) -> tuple[float, float]:
        """Mean gap within a burst and mean idle gap: both shares of time add up to the overall rate."""
        gap_ms = 1e3 / self.rate_per_s
        ends = 1 / self.burst_calls
        return gap_ms * (1 - self.idle_share) / (1 - ends), gap_ms * self.idle_share / ends

    @property
    def cv(self) -> float:
        """Coefficient of variation of the gaps: E[g²] = 2 Σ p m² for a mixture of exponentials."""
        within_ms, idle_ms = self.gap_means_ms
        ends = 1 / self.burst_calls
        second = 2 * ((1 - ends) * within_ms**2 + ends * idle_ms**2)
        return math.sqrt(second * (self.rate_per_s / 1e3) ** 2 - 1)

    def times_ms(self, num: int, rng: np.random.Generator) -> Times:
        """Draw (does the burst end?, unit exponential) per gap, in this order."""
        draws = rng.random((num, 2))
        within_ms, idle_ms = self.gap_means_ms
        means = np.where(draws[:, 0] < 1 / self.burst_calls, idle_ms, within_ms)
        return np.cumsum(-np.log1p(-draws[:, 1]) * means)

    def at_rate(self, rate_per_s: float) -> "OnOff":
        """The same burstiness at another rate."""
        return replace(self, rate_per_s=rate_per_s)


@dataclass(frozen=True, slots=True)
class Replay:
    """Recorded time stamps, shifted to begin at 0 and stretched by `1 / speed`.

    Parameters
    ----------
    recorded_ms : sequence of float
        At least as many as there are workflows; sorted here.
    speed : float
        2 replays twice as fast, > 0.
    """

    recorded_ms: Sequence[float]
    speed: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self.speed, "Replay: speed")
        times = np.asarray(self.recorded_ms, dtype=np.float64)
        if times.ndim != 1 or not np.isfinite(times).all():
            raise InputError("Replay: recorded_ms: expected a flat sequence of finite numbers")

    def times_ms(self, num: int, rng: np.random.Generator) -> Times:
        """The first `num` recorded times; nothing is drawn."""
        if num > len(self.recorded_ms):
            raise InputError(f"Replay: recorded_ms: expected at least {num} times, got {len(self.recorded_ms)}")
        times = np.sort(np.asarray(self.recorded_ms, dtype=np.float64))[:num]
        return (times - times[:1]) / self.speed


AZURE_CODE = OnOff(rate_per_s=2.5664, burst_calls=154.7, idle_share=0.7174)
"""Fitted by `fit_on_off` to AzureLLMInferenceTrace_code (2023-11-16, CC-BY-4.0); `at_rate` scales it."""


def fit_on_off(times_ms: Sequence[float] | Times, idle_gap_ms: float = 5e3) -> OnOff:
    """Fit an `OnOff` to recorded times: gaps longer than `idle_gap_ms` are idle gaps.

    Raises
    ------
    InputError
        If no gap is idle, or all are.
    """
    gaps_ms = np.diff(np.sort(np.asarray(times_ms, dtype=np.float64)))
    idle = gaps_ms > idle_gap_ms
    if not 0 < idle.sum() < len(gaps_ms):
        raise InputError(f"fit_on_off: expected some gaps above {idle_gap_ms} ms, got {idle.sum()} of {len(gaps_ms)}")
    total_ms = float(gaps_ms.sum())
    share = float(gaps_ms[idle].sum()) / total_ms
    return OnOff(len(gaps_ms) * 1e3 / total_ms, len(gaps_ms) / int(idle.sum()), share)


def with_arrivals(workload: Workload, arrivals: Arrivals, seed: int) -> Workload:
    """The same workflows in the same order, re-timed: the i-th gets the i-th arrival time (kept to a microsecond)."""
    times = arrival_times_ms(arrivals, len(workload.workflows), seed)
    retimed = (
        replace(workflow, arrival_ms=time_ms) for workflow, time_ms in zip(workload.workflows, times, strict=True)
    )
    return Workload(workload.name, tuple(retimed))


def arrival_times_ms(arrivals: Arrivals, num: int, seed: int) -> list[float]:
    """`num` times of the process for this seed, rounded to a microsecond so that files keep them exactly."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ARRIVALS_KEY,)))
    times: list[float] = np.round(arrivals.times_ms(num, rng), 3).tolist()
    return times
