"""Ragged ranges and per-group extremes of integer arrays. Knows numpy only."""

import numpy as np

from hexsolve_models.objective import Ints

FAR = 2**60  # stands for "none" in an extreme over nothing


def ragged(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """(i, value) for every value of first[i]..last[i], row by row; empty where last < first."""
    count = np.maximum(last - first + 1, 0)
    row = np.repeat(np.arange(first.size), count)
    return row, np.arange(row.size) - np.repeat(np.cumsum(count) - count - first, count)


def most(group: Ints, value: Ints, size: int) -> Ints:
    """[size] the largest value of each group; -FAR where it has none."""
    out = np.full(size, -FAR)
    np.maximum.at(out, group, value)
    return out


def least(group: Ints, value: Ints, size: int) -> Ints:
    """[size] the smallest value of each group; FAR where it has none."""
    out = np.full(size, FAR)
    np.minimum.at(out, group, value)
    return out


def rows_of(group: Ints, wanted: Ints) -> tuple[Ints, Ints]:
    """(i, row) for every row of the sorted `group` that equals wanted[i]."""
    return ragged(np.searchsorted(group, wanted), np.searchsorted(group, wanted, side="right") - 1)
