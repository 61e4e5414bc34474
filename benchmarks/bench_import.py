"""Import time of the library in fresh processes."""

import subprocess
import sys

import numpy as np

from benchmarks.registry import Rows, benchmark

_CODE = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
_STATEMENTS = (
    ("import hexsolve", "import hexsolve"),
    ("PlacementEngine", "from hexsolve import PlacementEngine"),
    ("simulate", "from hexsolve import simulate"),
)


@benchmark("import", "How long does importing the library take, without solving?")
def import_time(smoke: bool) -> Rows:
    rows: Rows = []
    for label, statement in _STATEMENTS:
        seconds = [
            float(
                subprocess.run([sys.executable, "-c", _CODE.format(statement)], capture_output=True, check=True).stdout
            )
            for _ in range(1 if smoke else 7)
        ]
        rows.append({"what": label, "median_s": float(np.median(seconds)), "max_s": max(seconds), "target_s": 0.5})
    return rows
