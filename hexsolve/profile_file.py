"""Profiles and hardware shapes as data files. Knows the files' fields; knows not where the packaged ones lie."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from hexsolve.cluster import GIB, default_kv_capacity_tokens
from hexsolve.datafile import nearest, read_file
from hexsolve.errors import InputError
from hexsolve.profile import DecodeLine, DecodeTable, DecodeTime, PrefillLine, PrefillTable, PrefillTime, Profile

Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Key = tuple[str, str, int, str]
"""(llm, gpu, tp, engine)."""


class PrefillLineRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of `PrefillLine`."""

    a_ms: NonNegative
    b_ms_per_token: NonNegative
    c_ms_per_area: NonNegative
    w_ms: NonNegative = 0.0


class PrefillTableRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of `PrefillTable`."""

    new_tokens: list[NonNegative]
    prefix_tokens: list[NonNegative]
    latency_ms: list[list[Positive]]


class DecodeLineRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of `DecodeLine`."""

    a_ms: NonNegative
    b_ms_per_call: NonNegative
    c_ms_per_token: NonNegative


class DecodeTableRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """Fields of `DecodeTable`."""

    batch: list[NonNegative]
    context_tokens: list[NonNegative]
    step_ms: list[list[Positive]]


class ProfileRecord(Struct, forbid_unknown_fields=True, kw_only=True):
    """One `[[profiles]]` entry: exactly one of prefill / prefill_table and one of decode / decode_table."""

    gpu: Name
    tp: Count
    engine: Name = "vllm"
    engine_version: str = ""
    kv_bytes_per_token: Count | None = None
    prefill: PrefillLineRecord | None = None
    prefill_table: PrefillTableRecord | None = None
    decode: DecodeLineRecord | None = None
    decode_table: DecodeTableRecord | None = None
    prefill_mape: NonNegative | None = None
    decode_mape: NonNegative | None = None
    kappa_prefill: Positive = 1.15
    kappa_decode: Positive = 1.05
    ttft_overhead_ms: NonNegative = 30.0


class ProfileFile(Struct, forbid_unknown_fields=True, kw_only=True):
    """A file of fitted profiles of one LLM."""

    llm: Name
    profiles: Annotated[list[ProfileRecord], Meta(min_length=1)]


class LlmShape(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What memory an LLM needs."""

    name: Name
    weight_bytes: Positive
    kv_bytes_per_token: Count
    kv_heads: Count


class GpuShape(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What memory a GPU has."""

    name: Name
    memory_gib: Positive


class Network(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What moves KV between replicas unless a cluster says otherwise."""

    bandwidth_gb_s: Positive
    link_latency_ms: NonNegative


class HardwareFile(Struct, forbid_unknown_fields=True, kw_only=True):
    """Shapes of LLMs and GPUs and the default network."""

    llms: list[LlmShape]
    gpus: list[GpuShape]
    network: Network


@dataclass(frozen=True)
class ProfileLibrary:
    """Everything that cluster files may refer to by name."""

    network: Network
    llms: Mapping[str, LlmShape] = field(default_factory=dict)
    gpus: Mapping[str, GpuShape] = field(default_factory=dict)
    profiles: Mapping[Key, Profile] = field(default_factory=dict)

    def profile(self, llm: str, gpu: str, tp: int, engine: str) -> Profile:
        """The profile of this name; InputError with the nearest existing ones if there is none."""
        found = self.profiles.get((llm, gpu, tp, engine))
        if found is None:
            raise InputError(f"no profile for llm {llm!r}, gpu {gpu!r}, tp {tp}, engine {engine!r}; {self._have(llm)}")
        return found

    def _have(self, llm: str) -> str:
        of_llm = [key for key in sorted(self.profiles) if key[0] == llm]
        if not of_llm:
            return f"llm: {nearest(llm, sorted({key[0] for key in self.profiles}))}"
        return f"for {llm!r} there are: {', '.join(f'{gpu} tp{tp} {engine}' for _, gpu, tp, engine in of_llm)}"

    def kv_capacity_tokens(self, llm: str, gpu: str, tp: int) -> int:
        """Default KV capacity of a replica; InputError if a shape is unknown or the weights do not fit."""
        if llm not in self.llms or gpu not in self.gpus:
            raise InputError(
                f"kv_capacity_tokens: expected a value, as llm {llm!r} on gpu {gpu!r} has no known default"
            )
        shape, memory_bytes = self.llms[llm], self.gpus[gpu].memory_gib * GIB
        tokens = default_kv_capacity_tokens(
            memory_bytes, shape.weight_bytes, tp, shape.kv_bytes_per_token, shape.kv_heads
        )
        if tokens <= 0:
            raise InputError(f"tp = {tp}: expected more GPUs, as the weights of {llm!r} do not fit on {tp} × {gpu}")
        return tokens

    def with_profiles(self, profiles: Iterable[Profile]) -> "ProfileLibrary":
        """This library and `profiles`, which win over those of the same name."""
        added = {(p.llm, p.gpu, p.tp, p.engine): p for p in profiles}
        return ProfileLibrary(self.network, self.llms, self.gpus, {**self.profiles, **added})


def build_library(hardware: HardwareFile, files: Iterable[tuple[str, ProfileFile]]) -> ProfileLibrary:
    """Library of the shapes in `hardware` and the profiles in `files`, pairs of a label for errors and the content."""
    shapes = {shape.name: shape for shape in hardware.llms}
    library = ProfileLibrary(hardware.network, shapes, {shape.name: shape for shape in hardware.gpus})
    return library.with_profiles(p for label, content in files for p in build_profiles(label, content, library))


def read_profiles(path: Path, library: ProfileLibrary) -> list[Profile]:
    """Profiles of a user's profile file (see `hexsolve.profile_fit`)."""
    return build_profiles(str(path), read_file(path, ProfileFile), library)


def build_profiles(label: str, content: ProfileFile, library: ProfileLibrary) -> list[Profile]:
    """Profiles of a decoded file; `library` supplies the KV bytes per token of LLMs it knows."""
    records = enumerate(content.profiles)
    return [build_profile(f"{label}: profiles[{i}]", content.llm, record, library) for i, record in records]


def build_profile(place: str, llm: str, record: ProfileRecord, library: ProfileLibrary) -> Profile:
    """One `Profile`; `place` is the start of every error message."""
    shape = library.llms.get(llm)
    kv_bytes = record.kv_bytes_per_token or (shape.kv_bytes_per_token if shape else None)
    if kv_bytes is None:
        raise InputError(
            f"{place}: missing key 'kv_bytes_per_token': expected an integer >= 1, as llm {llm!r} is unknown"
        )
    try:
        return Profile(
            llm, record.gpu, record.tp, record.engine, _prefill_time(record), _decode_time(record), kv_bytes,
            record.kappa_prefill, record.kappa_decode, record.ttft_overhead_ms,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _prefill_time(record: ProfileRecord) -> PrefillTime:
    line, table = record.prefill, record.prefill_table
    _exactly_one(line, table, "prefill", "prefill_table")
    if line is not None:
        return PrefillLine(line.a_ms, line.b_ms_per_token, line.c_ms_per_area, line.w_ms)
    assert table is not None
    return PrefillTable(tuple(table.new_tokens), tuple(table.prefix_tokens), tuple(map(tuple, table.latency_ms)))


def _decode_time(record: ProfileRecord) -> DecodeTime:
    line, table = record.decode, record.decode_table
    _exactly_one(line, table, "decode", "decode_table")
    if line is not None:
        return DecodeLine(line.a_ms, line.b_ms_per_call, line.c_ms_per_token)
    assert table is not None
    return DecodeTable(tuple(table.batch), tuple(table.context_tokens), tuple(map(tuple, table.step_ms)))


def _exactly_one(line: Any, table: Any, line_name: str, table_name: str) -> None:
    if (line is None) == (table is None):
        got = "neither" if line is None else "both"
        raise InputError(f"expected exactly one of the keys {line_name!r} and {table_name!r}, got {got}")
