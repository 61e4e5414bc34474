"""Named clusters and profiles that ship with the library. Knows where they lie and how to load one by name."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar

from hexsolve.cluster import Cluster
from hexsolve.cluster_file import ClusterFile, build_cluster, read_cluster
from hexsolve.datafile import SUFFIXES, nearest, read_text
from hexsolve.errors import InputError
from hexsolve.profile import Profile
from hexsolve.profile_file import HardwareFile, ProfileFile, ProfileLibrary, build_library

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """What a packaged cluster is, without loading its profiles."""

    name: str
    description: str
    num_prefill: int
    num_decode: int
    llm: str


def instances_dir() -> Traversable:
    """The packaged `instances` folder: inside the installed package, or beside it in a checkout."""
    packaged = files("hexsolve") / "instances"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "instances"


def list_clusters() -> list[ClusterInfo]:
    """The packaged clusters, by name."""
    return [_info(name, _packaged_cluster(name)) for name in _cluster_names()]


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A packaged cluster by its name, or a user's cluster file by its path.

    Raises
    ------
    InputError
        If there is no such name or file, or the file is not right (see `hexsolve.cluster_file.read_cluster`).
    """
    name = str(name_or_path)
    if name in _cluster_names():
        return build_cluster(f"{name}.toml", name, _packaged_cluster(name), library())
    path = Path(name_or_path)
    if path.suffix in SUFFIXES or path.exists():
        return read_cluster(path, library())
    raise InputError(f"cluster {name!r}: expected a file or a packaged name; {nearest(name, _cluster_names())}")


def list_profiles() -> list[Profile]:
    """The packaged profiles, by LLM, GPU, TP degree and engine."""
    profiles = library().profiles
    return [profiles[key] for key in sorted(profiles)]


def profile(llm: str, gpu: str, tp: int, engine: str = "vllm") -> Profile:
    """A packaged profile.

    Raises
    ------
    InputError
        If there is none; the message lists what exists.
    """
    return library().profile(llm, gpu, tp, engine)


@cache
def library() -> ProfileLibrary:
    """All packaged profiles and shapes; read once per process, immutable."""
    folder = instances_dir() / "profiles"
    hardware = _read(folder / "shapes.toml", HardwareFile)
    names = [name for name in _manifest(folder) if name != "shapes.toml"]
    return build_library(hardware, [(name, _read(folder / name, ProfileFile)) for name in names])


@cache
def _cluster_names() -> tuple[str, ...]:
    return tuple(sorted(name.removesuffix(".toml") for name in _manifest(instances_dir() / "clusters")))


def _packaged_cluster(name: str) -> ClusterFile:
    return _read(instances_dir() / "clusters" / f"{name}.toml", ClusterFile)


def _info(name: str, content: ClusterFile) -> ClusterInfo:
    num_prefill, num_decode = (sum(group.count for group in pool) for pool in (content.prefill, content.decode))
    return ClusterInfo(name, content.description, num_prefill, num_decode, content.llm)


def _manifest(folder: Traversable) -> list[str]:
    """File names that the folder's manifest.json lists."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return [str(entry["file"]) for entry in manifest["files"]]


def _read(file: Traversable, into: type[T]) -> T:
    return read_text(file.read_text(encoding="utf-8"), file.name, ".toml", into)
