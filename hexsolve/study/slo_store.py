"""Rows of studies in a folder, one file each, under the digest of what they depend on. Knows files; knows no studies.

A file is written whole or not at all, so a study that is killed leaves good rows only and goes on where it was. A file
that cannot be read is as good as none.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from hexsolve.atomic import write_atomically
from hexsolve.errors import InputError
from hexsolve.study.slo_cell import AloneRow, Row

T = TypeVar("T", Row, AloneRow)


class Store:
    """Rows (`rows/KEY.json`) and denominators (`alone/KEY.json`) under `folder`, which is made if it is not there.

    Raises
    ------
    InputError
        If the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for name in ("rows", "alone"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be made ({error})") from None

    def row(self, key: str) -> Row | None:
        """The row under this key, if there is a good one."""
        return _read(self.folder / "rows" / f"{key}.json", Row, key)

    def alone(self, key: str) -> AloneRow | None:
        """The denominators under this key, if there are good ones."""
        return _read(self.folder / "alone" / f"{key}.json", AloneRow, key)

    def put(self, row: Row | AloneRow) -> None:
        """Keep it."""
        kind = "rows" if isinstance(row, Row) else "alone"
        write_atomically(self.folder / kind / f"{row.key}.json", (msgspec.json.encode(row),))


def _read(path: Path, into: type[T], key: str) -> T | None:
    try:
        row = msgspec.json.decode(path.read_bytes(), type=into)
    except (OSError, msgspec.DecodeError):
        return None
    return row if row.key == key else None
