"""Option texts as values. Knows their grammar and how to say what is wrong with them."""

import re
from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING

from hexsolve.datafile import nearest
from hexsolve.errors import InputError

if TYPE_CHECKING:
    from hexsolve.cluster import Cluster
    from hexsolve.sim import Fault

_TIME = r"(\d+(?:\.\d+)?)(ms|s)"
_FAULT = re.compile(rf"(?P<replica>.+)@{_TIME}(?:-{_TIME})?")
_MS = {"ms": 1.0, "s": 1e3}


def parse_names(texts: Iterable[str]) -> list[str]:
    """Names out of comma-separated lists."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def parse_scales(text: str, option: str = "alpha") -> tuple[float, ...]:
    """SLO scales > 0, ascending, out of a comma-separated list."""
    scales = []
    for part in text.split(","):
        try:
            scale = float(part)
        except ValueError:
            raise InputError(f"{option}: expected numbers between commas, got {part.strip()!r}") from None
        if not 0 < scale < inf:
            raise InputError(f"{option} = {part.strip()}: expected a finite number > 0")
        scales.append(scale)
    return tuple(sorted(set(scales)))


def parse_faults(texts: Iterable[str], cluster: "Cluster") -> "tuple[Fault, ...]":
    """Faults out of ``REPLICA@DOWN[-UP]``, times with their unit: ``D0-H200@20s-45s``, ``P1-A100@500ms``."""
    return tuple(fault for text in texts for fault in _fault(text, cluster))


def _fault(text: str, cluster: "Cluster") -> "list[Fault]":
    from hexsolve.sim import Fault

    match = _FAULT.fullmatch(text)
    if match is None:
        raise InputError(f"fault {text!r}: expected REPLICA@DOWN or REPLICA@DOWN-UP, such as D0-H200@20s-45s")
    replicas = {
        replica.name: (replica.role, index)
        for pool in (cluster.prefill, cluster.decode)
        for index, replica in enumerate(pool)
    }
    if match["replica"] not in replicas:
        raise InputError(
            f"fault {text!r}: no such replica in {cluster.name!r}; {nearest(match['replica'], list(replicas))}"
        )
    role, index = replicas[match["replica"]]
    down_ms = float(match[2]) * _MS[match[3]]
    if match[4] is None:
        return [Fault(down_ms, role, index, "down")]
    up_ms = float(match[4]) * _MS[match[5]]
    if up_ms <= down_ms:
        raise InputError(f"fault {text!r}: expected UP after DOWN, got {up_ms:g} ms and {down_ms:g} ms")
    return [Fault(down_ms, role, index, "down"), Fault(up_ms, role, index, "up")]
