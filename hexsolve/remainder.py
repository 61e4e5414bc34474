"""How much of a workflow is still to come after a call of a kind, learned from workflows that have ended.

Knows standalone horizons and kinds; knows no calls, no load and no declared structure. A mean, not a forecast for one
workflow: by (class, kind), drawn towards the class, that towards all, and that towards nothing, by `_WEIGHT` imagined
workflows each. Old ones fade, so that it follows a drift. A mean by depth or from similar histories says more and errs
more, and an error costs at 99 % what it gains at 95 % (docs/lookahead.md).
"""

from collections.abc import Iterable

_WEIGHT = 5.0  # workflows' worth of evidence on the side of the broader mean
_MEMORY = 200.0  # workflows' worth of evidence a mean can have: older ones fade


class _Mean:
    """Mean and weight of what was seen lately."""

    __slots__ = ("mean", "weight")

    def __init__(self) -> None:
        self.mean = self.weight = 0.0

    def add(self, value: float, weight: float) -> None:
        kept = min(self.weight, _MEMORY - weight)
        self.weight = kept + weight
        self.mean = (kept * self.mean + weight * value) / self.weight

    def drawn_to(self, other: float) -> float:
        return (self.weight * self.mean + _WEIGHT * other) / (self.weight + _WEIGHT)


class Remainders:
    """Mean standalone ms from the end of a call, as its reveal lets expect it, to the end of its workflow."""

    __slots__ = ("_all", "_classes", "_kinds")

    def __init__(self) -> None:
        self._all = _Mean()
        self._classes: dict[str, _Mean] = {}
        self._kinds: dict[tuple[str, str], _Mean] = {}

    def observe(self, workflow_class: str, reveals: Iterable[tuple[str, float]], horizon_ms: float) -> None:
        """Learn from a workflow that has ended.

        Parameters
        ----------
        reveals : (kind, standalone horizon in ms once it was revealed) of each of its calls.
        horizon_ms : standalone horizon at the end.
        """
        by_kind: dict[str, list[float]] = {}
        for kind, revealed_ms in reveals:
            by_kind.setdefault(kind, []).append(max(0.0, horizon_ms - revealed_ms))
        count = sum(map(len, by_kind.values()))
        for kind, rest_ms in by_kind.items():
            mean, share = sum(rest_ms) / len(rest_ms), len(rest_ms) / count
            self._kinds.setdefault((workflow_class, kind), _Mean()).add(mean, 1.0)
            self._classes.setdefault(workflow_class, _Mean()).add(mean, share)
            self._all.add(mean, share)

    def rest_ms(self, workflow_class: str, kind: str) -> float:
        """Expected rest after a call of this kind; 0 as long as nothing has ended."""
        rest = self._all.drawn_to(0.0)
        for seen in (self._classes.get(workflow_class), self._kinds.get((workflow_class, kind))):
            rest = rest if seen is None else seen.drawn_to(rest)
        return rest
