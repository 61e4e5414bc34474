"""Cluster files (TOML, YAML, JSON) into `Cluster`. Knows the file's fields and defaults; knows no packaged names.

    name = "two-by-two"
    llm = "llama3.1-70b"
    [[prefill]]              # a group of equal replicas; [[decode]] likewise
    gpu = "H100"
    tp = 4
    count = 2

README of instances/clusters lists every key.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from hexsolve.cluster import Cluster, Replica, Role
from hexsolve.datafile import nearest, read_file, read_text
from hexsolve.errors import InputError
from hexsolve.profile_file import (
    Count,
    Name,
    NonNegative,
    Positive,
    ProfileLibrary,
    ProfileRecord,
    build_profile,
    read_profiles,
)

DEFAULT_ENGINE = "vllm"


class Group(Struct, forbid_unknown_fields=True, kw_only=True):
    """`count` equal replicas. What is not given comes from the file, then from the profile library."""

    gpu: Name
    tp: Count
    count: Count = 1
    names: list[Name] | None = None
    engine: Name | None = None
    kv_capacity_tokens: Annotated[int, Meta(ge=16)] | None = None
    bandwidth_gb_s: Positive | None = None
    max_batch_tokens: Count | None = None
    max_running: Count | None = None


class LinkRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """A bandwidth cap between one prefill and one decode replica."""

    prefill: Name
    decode: Name
    bandwidth_gb_s: Positive


class ClusterFile(Struct, forbid_unknown_fields=True, kw_only=True):
    """A whole cluster file."""

    llm: Name
    prefill: Annotated[list[Group], Meta(min_length=1)]
    decode: Annotated[list[Group], Meta(min_length=1)]
    name: Name | None = None
    description: str = ""
    engine: Name = DEFAULT_ENGINE
    link_latency_ms: NonNegative | None = None
    bandwidth_gb_s: Positive | None = None
    links: list[LinkRecord] = field(default_factory=list)
    profiles: list[ProfileRecord] = field(default_factory=list)
    profile_files: list[Name] = field(default_factory=list)


def read_cluster(path: Path, library: ProfileLibrary) -> Cluster:
    """Cluster of a user's file.

    Parameters
    ----------
    path : Path
        A .toml, .yaml, .yml or .json file. `profile_files` in it are relative to its folder.
    library : ProfileLibrary
        Where named profiles and default capacities come from; profiles of the file itself win over it.

    Raises
    ------
    InputError
        One error that names the file, the field and what was expected.
    """
    content = read_file(path, ClusterFile)
    for name in content.profile_files:
        library = library.with_profiles(read_profiles(path.parent / name, library))
    return build_cluster(str(path), path.stem, content, library)


def read_cluster_text(text: str, label: str, suffix: str, library: ProfileLibrary) -> Cluster:
    """Cluster of text that is already here, without `profile_files`; `label` names it in errors."""
    content = read_text(text, label, suffix, ClusterFile)
    if content.profile_files:
        raise InputError(f"{label}: profile_files: expected none outside a file, got {content.profile_files}")
    return build_cluster(label, Path(label).stem, content, library)


def build_cluster(label: str, default_name: str, content: ClusterFile, library: ProfileLibrary) -> Cluster:
    """Cluster of a decoded file; `label` is the start of every error message."""
    records = enumerate(content.profiles)
    own = [build_profile(f"{label}: profiles[{i}]", content.llm, record, library) for i, record in records]
    library = library.with_profiles(own)
    prefill, decode = (tuple(_pool(label, content, role, library)) for role in ("prefill", "decode"))
    _check_names(label, (prefill, decode))
    latency_ms = content.link_latency_ms
    return Cluster(
        name=content.name or default_name,
        llm=content.llm,
        prefill=prefill,
        decode=decode,
        link_latency_ms=library.network.link_latency_ms if latency_ms is None else latency_ms,
        links=_links(label, content.links, prefill, decode),
    )


def _pool(label: str, content: ClusterFile, role: Role, library: ProfileLibrary) -> Iterator[Replica]:
    groups, first = (content.prefill if role == "prefill" else content.decode), 0
    for i, group in enumerate(groups):
        place = f"{label}: {role}[{i}]"
        names = _names(place, group, role, first)
        try:
            yield from _replicas(names, content, group, role, library)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        first += group.count


def _names(place: str, group: Group, role: Role, first: int) -> list[str]:
    if group.names is None:
        return [f"{role[0].upper()}{first + i}-{group.gpu}" for i in range(group.count)]
    if len(group.names) != group.count:
        raise InputError(f"{place}.names: expected {group.count} names (count), got {len(group.names)}")
    return group.names


def _replicas(
    names: list[str], content: ClusterFile, group: Group, role: Role, library: ProfileLibrary
) -> Iterator[Replica]:
    profile = library.profile(content.llm, group.gpu, group.tp, group.engine or content.engine)
    capacity = group.kv_capacity_tokens or library.kv_capacity_tokens(content.llm, group.gpu, group.tp)
    bandwidth_gb_s = group.bandwidth_gb_s or content.bandwidth_gb_s or library.network.bandwidth_gb_s
    limits = {"max_batch_tokens": group.max_batch_tokens, "max_running": group.max_running}
    given = {key: value for key, value in limits.items() if value is not None}
    for name in names:
        yield Replica(name, role, group.gpu, group.tp, profile, capacity, bandwidth_gb_s, **given)


def _check_names(label: str, pools: tuple[tuple[Replica, ...], ...]) -> None:
    seen: set[str] = set()
    for replica in (replica for pool in pools for replica in pool):
        if replica.name in seen:
            raise InputError(f"{label}: {replica.role}: replica name {replica.name!r}: expected once, got twice")
        seen.add(replica.name)


def _links(
    label: str, records: list[LinkRecord], prefill: tuple[Replica, ...], decode: tuple[Replica, ...]
) -> dict[tuple[str, str], float]:
    links: dict[tuple[str, str], float] = {}
    for i, record in enumerate(records):
        for role, name, pool in (("prefill", record.prefill, prefill), ("decode", record.decode, decode)):
            known = [replica.name for replica in pool]
            if name not in known:
                raise InputError(
                    f"{label}: links[{i}].{role} = {name!r}: no such {role} replica; {nearest(name, known)}"
                )
        if (record.prefill, record.decode) in links:
            raise InputError(
                f"{label}: links[{i}]: expected each pair once, got {record.prefill!r} to {record.decode!r} twice"
            )
        links[record.prefill, record.decode] = record.bandwidth_gb_s
    return links
