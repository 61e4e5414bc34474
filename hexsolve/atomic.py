"""Files that are written whole or not at all. Knows bytes and paths; knows nothing of what they mean."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write all chunks or nothing: to a temporary file beside `path`, which then takes its place."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _permissions(path))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _permissions(path: Path) -> int:
    """The mode `path` has, or the usual one for a new file: mkstemp's own mode would hide it from other users."""
    return path.stat().st_mode & 0o777 if path.exists() else 0o644
