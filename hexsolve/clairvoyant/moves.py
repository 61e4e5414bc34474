"""Nodes of the search and how one leads to another. Knows priorities and who is to blame; simulates nothing."""

from dataclasses import dataclass, replace
from math import inf

import numpy as np

from hexsolve.clairvoyant.foresight import Foresight
from hexsolve.clairvoyant.replay import Schedule
from hexsolve.tables import Floats, Ints


@dataclass(frozen=True, eq=False)
class Node:
    """A schedule in the terms that moves change.

    Attributes
    ----------
    key : f8[N], base priority. unit : f8[W], a change of it that a workflow would notice.
    offset : f8[W], added to the key of each of its calls.
    nudge : f8[N], added to the key of the call alone, in units.
    dropped : bool[W], sacrificed: nothing of it starts before all others are through.
    prefill, decode : i8[N], pins as in `Schedule`.
    """

    key: Floats
    unit: Floats
    offset: Floats
    nudge: Floats
    dropped: np.ndarray[tuple[int], np.dtype[np.bool_]]
    prefill: Ints
    decode: Ints

    def schedule(self, ahead: Foresight) -> Schedule:
        """As it is simulated."""
        key = self.key + self.offset[ahead.workflow] + self.nudge * self.unit[ahead.workflow]
        return Schedule(key, self.prefill, self.decode, np.where(self.dropped, inf, 0.0))

    def sacrifice(self, workflows: Ints) -> "Node":
        """With these dropped, and no others."""
        dropped = np.zeros(len(self.offset), dtype=np.bool_)
        dropped[workflows] = True
        return replace(self, dropped=dropped)


def begin(ahead: Foresight, key: Floats, unit: Floats) -> Node:
    """A rule as a node: nothing changed, dropped or pinned."""
    num, width = len(key), ahead.num_workflows
    free = np.full(num, -1, dtype=np.int64)
    return Node(key, unit, np.zeros(width), np.zeros(num), np.zeros(width, dtype=np.bool_), free, free)


@dataclass(frozen=True)
class Blame:
    """Who is changed: workflows by their stretch to the power of `focus`, of the `counted` smallest stretches."""

    counted: int
    focus: float


def neighbour(
    ahead: Foresight,
    node: Node,
    stretches: Floats,
    blame: Blame,
    num_replicas: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Node, str]:
    """A node nearby and the name of the move that leads there."""
    order = np.argsort(stretches, kind="stable")
    kept, late = order[: blame.counted], order[blame.counted :]
    kind = str(rng.choice(_KINDS, p=_WEIGHTS))
    if kind == "swap" and len(late):
        return _swap(ahead, node, stretches, kept, late, blame, rng), kind
    if kind == "window":
        return _window(ahead, node, rng), kind
    if kind == "feedback":
        return _feedback(ahead, node, stretches, kept, rng), kind
    blamed = _draw(stretches, kept, blame.focus, _few(rng, 4 + len(kept) // 20), rng)
    if kind == "calls":
        return _calls(ahead, node, blamed, rng), kind
    if kind == "pin":
        return _pin(ahead, node, blamed, num_replicas, rng), kind
    if kind == "home":
        return _home(ahead, node, int(blamed[0]), num_replicas, rng), kind
    return _squeeze(ahead, node, stretches, kept, blamed, rng), "squeeze"


_KINDS = ("squeeze", "swap", "window", "calls", "pin", "feedback", "home")
_WEIGHTS = (0.25, 0.15, 0.15, 0.1, 0.1, 0.1, 0.15)


def _few(rng: np.random.Generator, most: int) -> int:
    """1 to `most`; about a third of it in the mean where it is large, else mostly 1 or 2."""
    return int(min(most, rng.geometric(min(0.5, 3.0 / most))))


def _draw(stretches: Floats, among: Ints, focus: float, count: int, rng: np.random.Generator) -> Ints:
    weight = (stretches[among] / stretches[among].max()) ** focus + 1e-12
    drawn: Ints = rng.choice(among, min(count, len(among)), replace=False, p=weight / weight.sum())
    return drawn


def _nearest(ahead: Foresight, workflow: int, count: int) -> Ints:
    """Workflows by arrival around one: with few exceptions those that compete with it."""
    width = ahead.num_workflows
    first = min(max(0, workflow - count // 2), max(0, width - count))
    return np.arange(first, min(width, first + count))


def _squeeze(
    ahead: Foresight, node: Node, stretches: Floats, kept: Ints, blamed: Ints, rng: np.random.Generator
) -> Node:
    """The blamed ones earlier; half of the time those beside them that do best come later."""
    offset = node.offset.copy()
    offset[blamed] -= node.unit[blamed] * rng.exponential(0.4, len(blamed))
    if rng.random() < 0.5:
        around = np.intersect1d(_nearest(ahead, int(blamed[0]), 16), kept)
        at_ease = around[np.argsort(stretches[around])][: _few(rng, 6)]
        offset[at_ease] += node.unit[at_ease] * rng.exponential(0.4, len(at_ease))
    return replace(node, offset=offset)


def _feedback(ahead: Foresight, node: Node, stretches: Floats, kept: Ints, rng: np.random.Generator) -> Node:
    """Everybody who counts is moved by a part of how far the stretch is from the middle of them."""
    offset = node.offset.copy()
    share = rng.uniform(0.05, 0.5)
    offset[kept] -= share * node.unit[kept] * (stretches[kept] - np.median(stretches[kept]))
    return replace(node, offset=offset)


def _swap(
    ahead: Foresight,
    node: Node,
    stretches: Floats,
    kept: Ints,
    late: Ints,
    blame: Blame,
    rng: np.random.Generator,
) -> Node:
    """One that was sacrificed is rescued, and a blamed one takes its place."""
    dropped = node.dropped.copy()
    if dropped[late].any() and (dropped.sum() >= len(late) or rng.random() < 0.5):
        dropped[rng.choice(late[dropped[late]])] = False
    focus = min(blame.focus, 4.0)
    heavy = _draw(stretches * (ahead.total_work / ahead.total_work.max()) ** 0.25, kept, focus, 1, rng)
    if dropped.sum() < len(late):
        dropped[heavy] = True
    return replace(node, dropped=dropped)


def _window(ahead: Foresight, node: Node, rng: np.random.Generator) -> Node:
    """Everything in a stretch of time is shaken a little."""
    beside = _nearest(ahead, int(rng.integers(ahead.num_workflows)), int(rng.integers(3, 13)))
    offset = node.offset.copy()
    offset[beside] += node.unit[beside] * rng.normal(0.0, 0.3, len(beside))
    return replace(node, offset=offset)


def _calls(ahead: Foresight, node: Node, blamed: Ints, rng: np.random.Generator) -> Node:
    """Calls of blamed workflows change places among each other and against those of others."""
    nudge = node.nudge.copy()
    for w in blamed.tolist():
        i, j = ahead.first[w], ahead.first[w + 1]
        chosen = i + np.flatnonzero(rng.random(j - i) < max(0.3, 1.0 / (j - i)))
        nudge[chosen] += rng.normal(0.0, 0.4, len(chosen))
    return replace(node, nudge=nudge)


def _pin(ahead: Foresight, node: Node, blamed: Ints, num_replicas: tuple[int, int], rng: np.random.Generator) -> Node:
    """A few calls of a blamed workflow, or of one beside it, get a pair of replicas, or are free again."""
    prefill, decode = node.prefill.copy(), node.decode.copy()
    w = int(blamed[0]) if rng.random() < 0.5 else int(rng.choice(_nearest(ahead, int(blamed[0]), 8)))
    i, j = int(ahead.first[w]), int(ahead.first[w + 1])
    chosen = i + rng.choice(j - i, min(j - i, _few(rng, 8)), replace=False)
    if rng.random() < 0.3:
        prefill[chosen] = decode[chosen] = -1
    else:
        prefill[chosen] = rng.integers(num_replicas[0], size=len(chosen))
        decode[chosen] = rng.integers(num_replicas[1])
    return replace(node, prefill=prefill, decode=decode)


def _home(ahead: Foresight, node: Node, blamed: int, num_replicas: tuple[int, int], rng: np.random.Generator) -> Node:
    """A blamed workflow gets a pair of replicas for all its calls, some of those beside it one that decodes elsewhere.

    Decodes in one batch slow one another down, so company is what a workflow can be relieved of at low load.
    """
    prefill, decode = node.prefill.copy(), node.decode.copy()
    home = int(rng.integers(num_replicas[1]))
    beside = _nearest(ahead, blamed, 8)
    moved = beside[rng.random(len(beside)) < 0.4] if num_replicas[1] > 1 else beside[:0]
    for w in [*moved.tolist(), blamed]:
        i, j = ahead.first[w], ahead.first[w + 1]
        prefill[i:j] = rng.integers(num_replicas[0])
        decode[i:j] = home if w == blamed else (home + rng.integers(1, num_replicas[1])) % num_replicas[1]
    return replace(node, prefill=prefill, decode=decode)
