"""Workload files: reading, checking and writing. Knows formats; knows nothing of clusters or policies."""

from hexsolve.io.workload import READERS, WRITERS, detect_format, read_workload, validate_file, write_workload

__all__ = ["READERS", "WRITERS", "detect_format", "read_workload", "validate_file", "write_workload"]
