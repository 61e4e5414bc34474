"""Repeated timing: medians and tails of one call. Knows clocks only."""

import gc
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def wall_ms(function: Callable[[], object], repeats: int) -> NDArray[np.float64]:
    """Wall time of each of `repeats` calls in ms, after one call to warm up."""
    function()
    gc.collect()
    times = np.empty(repeats)
    for i in range(repeats):
        started = time.perf_counter()
        function()
        times[i] = 1e3 * (time.perf_counter() - started)
    return times


def cpu_s(function: Callable[[], object]) -> float:
    """CPU seconds of this process for one call."""
    gc.collect()
    started = time.process_time()
    function()
    return time.process_time() - started
