"""Where data that is not ours to ship lies, if it is there. Knows a variable and a folder."""

import os
from pathlib import Path


def data_folder() -> Path:
    """$HEXSOLVE_DATA, or ../shared/data beside the checkout."""
    return Path(os.environ.get("HEXSOLVE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
