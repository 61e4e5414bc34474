"""Where a search begins: priorities out of full knowledge. Knows what is to come; simulates nothing.

* *due dates with true tails*: release + α·H_w less the least time from the call to the end of its workflow, α swept;
  whoever has least slack comes first (least laxity; with one α for all it balances stretches);
* *least remaining work* of the workflow behind the call, plain (SRPT) and times H_w (WSPT for the mean stretch), as
  logarithms, so that a shift is a factor;
* *sacrifice*: percentiles do not count the last few workflows, however late. Those are chosen as Moore and Hodgson
  (Management Science 15, 1968) do on one machine: in order of due dates, whenever the pool could not be through in
  time, the workflow with most work leaves; here the pool works on fractions, and calls wait for their releases.
"""

from collections.abc import Iterator
from heapq import heappop, heappush

import numpy as np

from hexsolve.clairvoyant.foresight import Foresight
from hexsolve.tables import Floats, Ints

_ALPHAS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
_SLOWER = (1.0, 1.1, 1.25)  # a real pool is not as fast as one whose batches are always full


def orders(ahead: Foresight) -> Iterator[tuple[str, Floats, Floats]]:
    """(name, key f8[N], unit f8[W]) of every rule without sacrifice; a unit is a change of the key that is noticed."""
    factor = np.full(ahead.num_workflows, 0.5)
    left = np.log(_remaining(ahead))
    for alpha in _ALPHAS:
        yield f"slack at {alpha:g}", slack_key(ahead, alpha), ahead.reference
    yield "remaining work x H_w", left + np.log(ahead.reference)[ahead.workflow], factor
    yield "remaining work", left, factor


def slack_key(ahead: Foresight, alpha: float) -> Floats:
    """f8[N] ticks: when a call has to start at the latest for a stretch of `alpha`, all else being at its fastest."""
    due = ahead.release + alpha * ahead.reference
    key: Floats = due[ahead.workflow] - ahead.tail
    return key


def _remaining(ahead: Foresight) -> Floats:
    """f8[N]: work of the workflow's calls that come no earlier than this one, by tails."""
    left = np.empty_like(ahead.work)
    for i, j in zip(ahead.first[:-1].tolist(), ahead.first[1:].tolist(), strict=True):
        order = i + np.argsort(ahead.tail[i:j], kind="stable")
        left[order] = np.cumsum(ahead.work[order])
    return left


def sacrifices(ahead: Foresight, count: int) -> Iterator[tuple[str, Ints]]:
    """(name, workflows) of every way to choose `count` workflows that will not be on time; none if `count` is 0."""
    if count == 0:
        return
    for slower in _SLOWER:
        yield f"Moore-Hodgson x {slower:g}", _moore_hodgson(ahead, count, slower)
    by_work = np.argsort(-ahead.total_work, kind="stable")
    yield "most work", by_work[:count]


def _moore_hodgson(ahead: Foresight, count: int, slower: float) -> Ints:
    """The workflows that are late at the least α at which at most `count` are (bisected), filled up by work."""
    low, high = 0.0, 1.0
    while len(_late(ahead, high, slower)) > count:
        high *= 2.0
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if len(_late(ahead, middle, slower)) > count else (low, middle)
    late = _late(ahead, high, slower)
    others = [w for w in np.argsort(-ahead.total_work, kind="stable").tolist() if w not in set(late)]
    return np.array([*late, *others][:count], dtype=np.int64)


def _late(ahead: Foresight, alpha: float, slower: float) -> list[int]:
    """Workflows to leave out so that the others make `alpha`, the pool serving due dates on one fluid machine."""
    work = slower * ahead.total_work
    due = ahead.release + alpha * ahead.reference
    late: list[int] = []
    busy_until = 0.0
    heap: list[tuple[float, int]] = []
    for w in np.lexsort((ahead.release, due)).tolist():
        if ahead.release[w] > busy_until:  # nothing taken on before can have kept this one waiting
            heap, busy_until = [], float(ahead.release[w])
        heappush(heap, (-work[w], w))
        busy_until += work[w]
        while heap and busy_until > due[w]:
            most, x = heappop(heap)
            busy_until += most
            late.append(x)
    return late
