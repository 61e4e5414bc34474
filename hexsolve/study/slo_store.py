"""Rows of studies in a folder, one file each, under the digest of what they depend on. Knows files; knows no studies.

A file is written whole or not at all, so a study that is killed leaves good rows only and goes on where it was. A file
that cannot be read is as good as none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from hexsolve.atomic import write_atomically
from hexsolve.errors import InputError
from hexsolve.study.slo_cell import AloneRow, Row


class Kept(Protocol):
    """What a store keeps: a `msgspec.Struct` with the digest of what it depends on, and why there is none, if so."""

    def __init__(self, key: str, *, error: str = "") -> None: ...
    @property
    def key(self) -> str: ...
    @property
    def error(self) -> str: ...


T = TypeVar("T", bound=Kept)


class Store:
    """Rows (`rows/KEY.json`) and denominators (`alone/KEY.json`) under `folder`, which is made if it is not there.

    Parameters
    ----------
    more : folders of other types of rows.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path, more: Mapping[type[Kept], str] | None = None) -> None:
        self.folder = folder
        self._names: dict[type[Kept], str] = {Row: "rows", AloneRow: "alone", **(more or {})}
        try:
            for name in self._names.values():
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be made ({error})") from None

    def row(self, key: str) -> Row | None:
        """The row under this key, if there is a good one."""
        return self.find(Row, key)

    def alone(self, key: str) -> AloneRow | None:
        """The denominators under this key, if there are good ones."""
        return self.find(AloneRow, key)

    def find(self, kind: type[T], key: str) -> T | None:
        """What is kept of this type under this key, if it is good."""
        try:
            row = msgspec.json.decode(self._path(kind, key).read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError):
            return None
        return row if row.key == key else None

    def put(self, row: Kept) -> None:
        """Keep it."""
        write_atomically(self._path(type(row), row.key), (msgspec.json.encode(row),))

    def _path(self, kind: type[Kept], key: str) -> Path:
        return self.folder / self._names[kind] / f"{key}.json"
