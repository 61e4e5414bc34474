"""`generate`: a named synthetic workload. Knows the names, seeds and default arrivals; templates know the shapes."""

from dataclasses import replace
from functools import partial

import numpy as np

from hexsolve.arrivals import Arrivals, Poisson, arrival_times_ms
from hexsolve.errors import InputError
from hexsolve.generate.builder import CallList
from hexsolve.generate.figures import Sampler, load_figures
from hexsolve.generate.published import bfcl, lats, sharegpt
from hexsolve.generate.templates import TEMPLATES
from hexsolve.workflow import Workflow, Workload

_PUBLISHED = {"sharegpt": sharegpt, "bfcl": bfcl, "lats": lats}
_MIXED = ("sharegpt", "bfcl", "lats")
_RATES_PER_S = {"sharegpt": 10.0, "bfcl": 40.0, "lats": 40.0, "mixed": 10.0}  # HexAGenT's traces, FIELD §1

NAMES: tuple[str, ...] = (*sorted(TEMPLATES), *_PUBLISHED, "mixed")
"""What `generate` knows."""


def generate(name: str, num_workflows: int, seed: int, arrivals: Arrivals | None = None) -> Workload:
    """Generate a workload.

    Workflow `i` depends on `(name, seed, i)` only and its arrival on `(arrivals, seed, i)`: a longer workload begins
    with the shorter one.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    num_workflows : int
        At least 1.
    seed : int
        At least 0.
    arrivals : Arrivals, optional
        Default: `default_arrivals(name)`.

    Raises
    ------
    InputError
        On an unknown name or a number out of range.
    """
    _check(name, num_workflows, seed)
    flows = (generate_workflow(name, seed, number) for number in range(num_workflows))
    times = arrival_times_ms(arrivals or default_arrivals(name), num_workflows, seed)
    return Workload(name, tuple(replace(flow, arrival_ms=ms) for flow, ms in zip(flows, times, strict=True)))


def default_arrivals(name: str) -> Poisson:
    """Poisson at the paper's rate, or 1/s where none is published (`hexsolve.load.rate_for` finds a fitting one)."""
    return Poisson(_RATES_PER_S.get(name, 1.0))


def generate_workflow(name: str, seed: int, number: int) -> Workflow:
    """Workflow `number` of a generated workload, arriving at 0. ``mixed`` takes its three sources in turn."""
    source = _MIXED[number % 3] if name == "mixed" else name
    key = tuple(source.encode())
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*key, number)))
    build = _PUBLISHED.get(source) or partial(_from_figures, source)
    return build(rng).workflow(f"{source}-{number}", source)


def _from_figures(name: str, rng: np.random.Generator) -> CallList:
    return TEMPLATES[name](Sampler(load_figures(name), rng))


def _check(name: str, num_workflows: int, seed: int) -> None:
    if name not in NAMES:
        raise InputError(f"generate: name: expected one of {', '.join(NAMES)}, got {name!r}")
    for field, value, least in (("num_workflows", num_workflows, 1), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise InputError(f"generate: {field}: expected an int >= {least}, got {value!r}")
