"""Output-length predictors. Know what a scheduler may see of a call; only `Oracle` and `Noisy` are lent the truth."""

import hashlib
import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple, Protocol

from hexsolve.errors import InputError
from hexsolve.workflow import Workload

_STANDARD = NormalDist()


class CallView(NamedTuple):
    """What is known of a call when it is revealed. It has no field for the true output length."""

    workflow_id: str
    workflow_class: str
    request_id: str
    kind: str
    input_tokens: int
    cached_prefix_tokens: int
    prefix_group: str


Truth = Callable[[CallView], int]
"""The true output length of a call; stays with the simulator and the predictors that are lent it."""


class Predictor(Protocol):
    """Estimates output lengths in tokens. Every answer of `predict` is >= 1, of `refine` > `generated`."""

    def predict(self, view: CallView) -> int:
        """Output tokens expected of a call that has just been revealed."""

    def observe(self, view: CallView, output_tokens: int) -> None:
        """Learn the true length of a call that has finished."""

    def refine(self, view: CallView, generated: int) -> int:
        """Total output tokens expected of a call that has already generated `generated` and goes on."""


class Oracle:
    """Knows every length: the upper end of what prediction can give."""

    __slots__ = ("_truth",)

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    def predict(self, view: CallView) -> int:
        return self._truth(view)

    def observe(self, view: CallView, output_tokens: int) -> None:
        pass

    def refine(self, view: CallView, generated: int) -> int:
        return max(self._truth(view), generated + 1)


class Noisy:
    """The truth times exp(sigma·z) with z standard normal, one z per call: right in the median at every sigma.

    z is a hash of (seed, workflow_id, request_id), so a call gets the same error under every policy and in every order
    of reveals.

    Parameters
    ----------
    truth : callable
        True output length of a call.
    sigma : float
        Standard deviation of the log error, >= 0; 0.3 is an error of about ±30 %.
    seed : int
        Seed of the errors.

    Raises
    ------
    InputError
        If sigma is not a finite number >= 0.
    """

    __slots__ = ("_seed", "_sigma", "_truth")

    def __init__(self, truth: Truth, sigma: float, seed: int = 0) -> None:
        if not (math.isfinite(sigma) and sigma >= 0):
            raise InputError(f"noisy predictor: sigma: expected a finite number >= 0, got {sigma!r}")
        self._truth, self._sigma, self._seed = truth, sigma, seed

    def predict(self, view: CallView) -> int:
        z = _STANDARD.inv_cdf(_uniform(self._seed, view.workflow_id, view.request_id))
        return max(1, round(self._truth(view) * math.exp(self._sigma * z)))

    def observe(self, view: CallView, output_tokens: int) -> None:
        pass

    def refine(self, view: CallView, generated: int) -> int:
        """Median of the length given that it exceeds `generated`, from the prediction and sigma alone (no truth)."""
        predicted = self.predict(view)
        if self._sigma == 0.0:
            return max(predicted, generated + 1)
        below = _STANDARD.cdf(math.log(generated / predicted) / self._sigma) if generated > 0 else 0.0
        level = min((1.0 + below) / 2.0, 1.0 - 1e-12)
        return max(generated + 1, round(predicted * math.exp(self._sigma * _STANDARD.inv_cdf(level))))


class Learned:
    """A quantile of the lengths seen lately for the same (class, kind), else the same class, else any call.

    The default quantile is 0.6: the prediction doubles as the KV reservation, where too little costs a push-back now
    and then (growth is 64 tokens at a time) and too much costs batch size all the time, so it sits little above the
    median. With fewer than `min_observed` lengths in a group the next wider group answers, in the end `prior_tokens`.

    Parameters
    ----------
    quantile : float
        In (0, 1).
    window : int
        Lengths kept per group, the latest ones, >= 1: bounds memory and follows drift.
    min_observed : int
        Lengths a group needs before it answers, >= 1.
    prior_tokens : int
        The answer before anything is known, >= 1; 256 is near the mean output of chat turns (277 in ShareGPT as
        published with Autellix, arXiv 2502.13965).

    Raises
    ------
    InputError
        If a parameter is outside its range.
    """

    __slots__ = ("_groups", "_min_observed", "_prior_tokens", "_quantile", "_window")

    def __init__(
        self, quantile: float = 0.6, window: int = 512, min_observed: int = 8, prior_tokens: int = 256
    ) -> None:
        if not 0.0 < quantile < 1.0:
            raise InputError(f"learned predictor: quantile: expected a number in (0, 1), got {quantile!r}")
        for name, value in (("window", window), ("min_observed", min_observed), ("prior_tokens", prior_tokens)):
            if value < 1:
                raise InputError(f"learned predictor: {name}: expected an int >= 1, got {value!r}")
        self._quantile, self._window = quantile, window
        self._min_observed, self._prior_tokens = min_observed, prior_tokens
        self._groups: dict[tuple[str, ...], _Window] = {}

    def predict(self, view: CallView) -> int:
        lengths = self._lengths(view, above=0)
        return _quantile_of(lengths, self._quantile) if lengths else self._prior_tokens

    def observe(self, view: CallView, output_tokens: int) -> None:
        for key in _group_keys(view):
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = _Window(self._window)
            group.add(output_tokens)

    def refine(self, view: CallView, generated: int) -> int:
        """The same quantile among the seen lengths above `generated`; twice `generated` where none is known.

        Doubling is the classical answer to an unknown length: in the end at most twice too long.
        """
        lengths = self._lengths(view, above=generated)
        return _quantile_of(lengths, self._quantile) if lengths else max(2 * generated, 1)

    def _lengths(self, view: CallView, above: int) -> Sequence[int]:
        """Sorted lengths > `above` of the narrowest group that has seen enough; empty if there is none."""
        for key in _group_keys(view):
            group = self._groups.get(key)
            if group is not None and len(group.ordered) >= self._min_observed:
                return group.ordered[bisect_right(group.ordered, above) :] if above else group.ordered
        return ()


class _Window:
    """The latest `size` lengths, in order of age and in order of size."""

    __slots__ = ("_latest", "_size", "ordered")

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: deque[int] = deque()
        self.ordered: list[int] = []

    def add(self, tokens: int) -> None:
        self._latest.append(tokens)
        insort(self.ordered, tokens)
        if len(self._latest) > self._size:
            oldest = self._latest.popleft()
            del self.ordered[bisect_right(self.ordered, oldest) - 1]


def truth_of(workload: Workload) -> Truth:
    """Lookup of the true output lengths of a workload, to lend to `Oracle` and `Noisy`."""
    lengths = {
        (workflow.workflow_id, call.request_id): call.output_tokens
        for workflow in workload.workflows
        for call in workflow.calls
    }
    return lambda view: lengths[view.workflow_id, view.request_id]


def parse_predictor(text: str, workload: Workload, seed: int = 0) -> Predictor:
    """Predictor from its short name: ``oracle``, ``noisy:SIGMA``, ``learned`` or ``learned:QUANTILE``.

    Raises
    ------
    InputError
        If the name is none of these or its number cannot be read.
    """
    name, _, argument = text.partition(":")
    if name == "oracle" and not argument:
        return Oracle(truth_of(workload))
    if name == "noisy" and argument:
        return Noisy(truth_of(workload), _number(text, argument), seed)
    if name == "learned":
        return Learned(_number(text, argument)) if argument else Learned()
    raise InputError(f"predictor: expected oracle, noisy:SIGMA, learned or learned:QUANTILE, got {text!r}")


def _number(text: str, argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise InputError(f"predictor {text!r}: expected a number after the colon, got {argument!r}") from None


def _uniform(seed: int, workflow_id: str, request_id: str) -> float:
    """A number in (0, 1) that is a hash of the three; the same in every process."""
    text = f"{seed}\0{workflow_id}\0{request_id}".encode()
    bits = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 11
    return (bits + 0.5) / 2.0**53


def _group_keys(view: CallView) -> tuple[tuple[str, ...], ...]:
    return (view.workflow_class, view.kind), (view.workflow_class,), ()


def _quantile_of(ordered: Sequence[int], quantile: float) -> int:
    """The smallest seen value that at least `quantile` of the values do not exceed."""
    return ordered[max(0, math.ceil(quantile * len(ordered) - 1e-9) - 1)]
