"""Decode step times, remembered. Knows one profile; knows nothing of calls."""

from bisect import bisect_right
from math import inf

from hexsolve.profile import Profile


class DecodePace:
    """`Profile.decode_segment` with the lines of each batch size kept, from context 0 to infinity.

    The line of a segment holds between whole steps too, so that one segment answers every later question inside it.
    """

    __slots__ = ("_lines", "_profile")

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._lines: dict[int, tuple[list[float], list[tuple[float, float, float]]]] = {}

    def segment(self, batch: int, mean_context: float) -> tuple[float, float, float]:
        """(step0_ms, slope_ms_per_step, steps_in_segment) as of `Profile.decode_segment`."""
        lines = self._lines.get(batch)
        if lines is None:
            lines = self._lines[batch] = self._all_lines(batch)
        starts, segments = lines
        i = bisect_right(starts, mean_context) - 1
        step_ms, slope_ms, length = segments[i]
        done = mean_context - starts[i]
        return step_ms + slope_ms * done, slope_ms, length - done

    def _all_lines(self, batch: int) -> tuple[list[float], list[tuple[float, float, float]]]:
        """Starts of the segments of a batch size, and the segments."""
        starts, segments, start = [], [], 0.0
        while start < inf:
            segment = self._profile.decode_segment(batch, start)
            starts.append(start)
            segments.append(segment)
            start += segment[2]
        return starts, segments
