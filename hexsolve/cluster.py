"""Replicas and the cluster they form. Knows capacities, links and transfer times; knows no calls and no state."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hexsolve.errors import InputError
from hexsolve.profile import Profile

BLOCK_TOKENS = 16
"""KV cache is held in blocks of this many tokens (the vLLM default)."""

Role = Literal["prefill", "decode"]
GIB = 2**30


@dataclass(frozen=True)
class Replica:
    """One serving engine: a prefill replica or a decode replica.

    Parameters
    ----------
    name : str
        Unique within its cluster.
    role : {"prefill", "decode"}
    gpu : str
        GPU type.
    tp : int
        Tensor-parallel degree, >= 1.
    profile : Profile
        Its speed.
    kv_capacity_tokens : int
        KV tokens it can hold, >= BLOCK_TOKENS.
    bandwidth_gb_s : float
        Network bandwidth per direction, 10⁹ bytes per second, > 0.
    max_batch_tokens : int
        New tokens of one prefill batch, >= 1.
    max_running : int
        Calls that decode at once, >= 1.

    Raises
    ------
    InputError
        If a field lies outside its range.
    """

    name: str
    role: Role
    gpu: str
    tp: int
    profile: Profile
    kv_capacity_tokens: int
    bandwidth_gb_s: float
    max_batch_tokens: int = 2048
    max_running: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"replica name: expected a non-empty string, got {self.name!r}")
        where = f"replica {self.name!r}"
        if self.role not in ("prefill", "decode"):
            raise InputError(f'{where}: role: expected "prefill" or "decode", got {self.role!r}')
        for key, lowest in (
            ("tp", 1),
            ("kv_capacity_tokens", BLOCK_TOKENS),
            ("max_batch_tokens", 1),
            ("max_running", 1),
        ):
            value = getattr(self, key)
            if type(value) is not int or value < lowest:
                raise InputError(f"{where}: {key}: expected an int >= {lowest}, got {value!r}")
        _check_positive(self.bandwidth_gb_s, f"{where}: bandwidth_gb_s")

    @property
    def kv_capacity_blocks(self) -> int:
        """Whole KV blocks it can hold."""
        return self.kv_capacity_tokens // BLOCK_TOKENS


@dataclass(frozen=True, eq=False)
class Cluster:
    """Prefill replicas, decode replicas and the network between them; equal and hashed by content (`digest`).

    Parameters
    ----------
    name, llm : str
        Its name and the LLM that every replica serves.
    prefill, decode : tuple of Replica
        At least one each; positions are the replica indices used everywhere.
    link_latency_ms : float
        Fixed time per KV transfer, >= 0 (Mooncake 2 ms, NIXL 6 ms; DESIGN §5).
    links : mapping of (prefill name, decode name) to float
        Bandwidth caps in GB/s of single pairs, > 0.

    Raises
    ------
    InputError
        On an empty pool, a duplicate name, a wrong role, a profile of another LLM or a link between unknown replicas.
    """

    name: str
    llm: str
    prefill: tuple[Replica, ...]
    decode: tuple[Replica, ...]
    link_latency_ms: float = 2.0
    links: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"cluster {self.name!r}"
        pools: tuple[tuple[Role, tuple[Replica, ...]], ...] = (("prefill", self.prefill), ("decode", self.decode))
        for role, replicas in pools:
            self._check_pool(where, role, replicas)
        self._check_names(where)
        if not (math.isfinite(self.link_latency_ms) and self.link_latency_ms >= 0):
            raise InputError(f"{where}: link_latency_ms: expected a finite number >= 0, got {self.link_latency_ms!r}")
        self._check_links(where)
        object.__setattr__(self, "links", dict(self.links))

    def _check_pool(self, where: str, role: Role, replicas: tuple[Replica, ...]) -> None:
        if not replicas:
            raise InputError(f"{where}: {role}: expected at least one replica, got none")
        for replica in replicas:
            if replica.role != role:
                raise InputError(
                    f"{where}: {role} replica {replica.name!r}: expected role {role!r}, got {replica.role!r}"
                )
            if replica.profile.llm != self.llm:
                raise InputError(
                    f"{where}: replica {replica.name!r}: expected a profile of llm {self.llm!r}, "
                    f"got {replica.profile.llm!r}"
                )

    def _check_names(self, where: str) -> None:
        seen: set[str] = set()
        for replica in self.prefill + self.decode:
            if replica.name in seen:
                raise InputError(f"{where}: replica name {replica.name!r}: expected once, got twice")
            seen.add(replica.name)

    def _check_links(self, where: str) -> None:
        sources, targets = ([replica.name for replica in pool] for pool in (self.prefill, self.decode))
        for (source, target), bandwidth_gb_s in self.links.items():
            if source not in sources or target not in targets:
                raise InputError(
                    f"{where}: links[{source!r}, {target!r}]: expected a prefill replica of {sources} and a decode "
                    f"replica of {targets}"
                )
            _check_positive(bandwidth_gb_s, f"{where}: links[{source!r}, {target!r}]")

    @property
    def num_prefill(self) -> int:
        """Number of prefill replicas P."""
        return len(self.prefill)

    @property
    def num_decode(self) -> int:
        """Number of decode replicas D."""
        return len(self.decode)

    def pair_bandwidth_gb_s(self) -> NDArray[np.float64]:
        """f8[P, D]: least of the source's, the destination's and the link's bandwidth; read-only."""
        return self._pair_bandwidth_gb_s

    def transfer_ms(self, tokens: int) -> NDArray[np.float64]:
        """f8[P, D]: time to move `tokens` KV tokens over an idle network: latency + TTFT overhead + bytes/bandwidth."""
        return self.transfer_fixed_ms[:, None] + tokens * self.transfer_ms_per_token

    @cached_property
    def transfer_fixed_ms(self) -> NDArray[np.float64]:
        """f8[P]: the part of a transfer that does not depend on its size; read-only."""
        overhead_ms = np.array([replica.profile.ttft_overhead_ms for replica in self.prefill])
        return _read_only(self.link_latency_ms + overhead_ms)

    @cached_property
    def transfer_ms_per_token(self) -> NDArray[np.float64]:
        """f8[P, D]: uncontended transfer time per KV token; read-only."""
        num_bytes = np.array([float(replica.profile.kv_bytes_per_token) for replica in self.prefill])
        return _read_only(num_bytes[:, None] / (self._pair_bandwidth_gb_s * 1e6))

    @cached_property
    def kv_capacity_blocks(self) -> NDArray[np.int64]:
        """i8[D]: KV blocks of each decode replica; read-only."""
        return _read_only(np.array([replica.kv_capacity_blocks for replica in self.decode], dtype=np.int64))

    @cached_property
    def _pair_bandwidth_gb_s(self) -> NDArray[np.float64]:
        source, target = (np.array([float(r.bandwidth_gb_s) for r in pool]) for pool in (self.prefill, self.decode))
        bandwidth = np.minimum(source[:, None], target[None, :])
        row, column = ({r.name: i for i, r in enumerate(pool)} for pool in (self.prefill, self.decode))
        for (p, d), cap_gb_s in self.links.items():
            bandwidth[row[p], column[d]] = min(bandwidth[row[p], column[d]], cap_gb_s)
        return _read_only(bandwidth)

    def scaled(self, gpu_speed: Mapping[str, float]) -> "Cluster":
        """The same cluster with every replica of a GPU type `gpu_speed[gpu]` times as fast (sensitivity studies).

        Raises
        ------
        InputError
            If a GPU type does not occur in the cluster or a speed is not > 0.
        """
        known = {replica.gpu for replica in self.prefill + self.decode}
        for gpu in gpu_speed:
            if gpu not in known:
                raise InputError(f"cluster {self.name!r}: gpu {gpu!r}: expected one of {sorted(known)}")
        prefill, decode = (
            tuple(_scaled_replica(r, gpu_speed.get(r.gpu, 1.0)) for r in pool) for pool in (self.prefill, self.decode)
        )
        return replace(self, prefill=prefill, decode=decode)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical content: equal clusters have equal digests, in every process."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        content = {
            "name": self.name,
            "llm": self.llm,
            "replicas": [_canonical(replica) for replica in self.prefill + self.decode],
            "link_latency_ms": float(self.link_latency_ms),
            "links": sorted([*pair, float(cap)] for pair, cap in self.links.items()),
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cluster) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


def default_kv_capacity_tokens(
    memory_bytes: float, weight_bytes: float, tp: int, kv_bytes_per_token: int, kv_heads: int
) -> int:
    """KV tokens that fit one replica, in whole blocks; <= 0 if the weights do not fit.

    TP·(0.90·memory - weights/TP - 2.1 GiB - 0.4 GiB if TP > 1) / bytes per token (DESIGN §5: vLLM's memory share,
    activations, NCCL buffers). A KV head cannot be split, so with TP > `kv_heads` each head is held TP/`kv_heads`
    times and a token costs as many times the bytes.

    Parameters
    ----------
    memory_bytes : float
        Memory of one GPU as CUDA reports it.
    weight_bytes : float
        Weights of the whole LLM.
    tp, kv_bytes_per_token, kv_heads : int
        Tensor-parallel degree, bytes of one token over all layers and heads, number of KV heads; all >= 1.
    """
    free = 0.90 * memory_bytes - weight_bytes / tp - 2.1 * GIB - (0.4 * GIB if tp > 1 else 0.0)
    copies = max(1.0, tp / kv_heads)
    return math.floor(tp * free / (kv_bytes_per_token * copies)) // BLOCK_TOKENS * BLOCK_TOKENS


def _scaled_replica(replica: Replica, speed: float) -> Replica:
    return replica if speed == 1.0 else replace(replica, profile=replica.profile.scaled(speed))


def _canonical(value: Any) -> Any:
    """Dataclass to a JSON value that also names the class; numbers that are equal look equal."""
    if is_dataclass(value) and not isinstance(value, type):
        fields = {name: _canonical(getattr(value, name)) for name in value.__dataclass_fields__}
        return {"form": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    return float(value) if isinstance(value, (int, float)) else value


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _check_positive(value: float, where: str) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise InputError(f"{where}: expected a finite number > 0, got {value!r}")
