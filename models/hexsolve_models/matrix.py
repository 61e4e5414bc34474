"""Mixed-integer linear programs as arrays that are PuLP problems too. Knows PuLP; knows nothing of epochs or solvers.

PuLP keeps a dict per row that hashes in Python, and hands HiGHS one row at a time: 10 and 34 ms of CPU per 1,000
columns (PuLP 3.3.2), where the arrays take under 1 ms. So rows become PuLP objects only when something asks for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
import numpy.typing as npt
import pulp

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Matrix:
    """min offset + cost . v  with  row_lower <= A v <= row_upper, lower <= v <= upper, v[integer] whole.

    cost, lower, upper, integer : [n].
    row_start, column, factor : A by rows, [m + 1], [nnz], [nnz].
    row_lower, row_upper : [m]; infinite where open.
    is_whole : every whole solution, its best values in the other columns, costs a whole number and is all whole.
    """

    offset: float
    cost: Floats
    lower: Floats
    upper: Floats
    integer: Bools
    row_start: Ints
    column: Ints
    factor: Floats
    row_lower: Floats
    row_upper: Floats
    is_whole: bool = False

    @property
    def is_lp(self) -> bool:
        return not self.integer.any()

    @property
    def num_columns(self) -> int:
        return int(self.cost.size)

    @property
    def num_rows(self) -> int:
        return int(self.row_lower.size)

    @cached_property
    def row(self) -> Ints:
        """[nnz] row of every entry."""
        return np.repeat(np.arange(self.num_rows), np.diff(self.row_start))

    def objective(self, values: npt.ArrayLike) -> float:
        return self.offset + float(self.cost @ np.asarray(values, dtype=np.float64))

    def activity(self, values: npt.ArrayLike) -> Floats:
        """[m] A v."""
        terms = self.factor * np.asarray(values, dtype=np.float64)[self.column]
        return _sums(self.row, terms, self.num_rows)

    def violation(self, values: npt.ArrayLike) -> float:
        """By how much `values` break the worst bound, row or integrality; 0.0 if none."""
        v, activity = np.asarray(values, dtype=np.float64), self.activity(values)
        gaps = (
            self.lower - v,
            v - self.upper,
            self.row_lower - activity,
            activity - self.row_upper,
            np.abs(v - np.rint(v))[self.integer],
        )
        return max(float(gap.max(initial=0.0)) for gap in gaps)

    def dual_bound(self, duals: Floats) -> float:
        """A lower bound on the objective of the LP relaxation from any row duals, rounding errors taken off.

        For all feasible v: cost . v = duals . A v + (cost - duals A) . v, and both terms are at least their smallest
        value within the limits of rows and columns (Neumaier, Shcherbina, "Safe bounds in linear and mixed-integer
        linear programming", Math. Prog. 99, 2004). -inf if a column is unbounded.
        """
        widest = np.maximum(np.abs(self.lower), np.abs(self.upper))
        if not np.isfinite(widest).all():  # rounding may hide a reduced cost
            return -inf
        usable = np.where(duals > 0, np.isfinite(self.row_lower), np.isfinite(self.row_upper))
        y = np.where(usable & np.isfinite(duals), duals, 0.0)
        products = self.factor * y[self.row]
        reduced = self.cost - _sums(self.column, products, self.num_columns)
        by_row = np.where(y > 0, self.row_lower, np.where(y < 0, self.row_upper, 0.0)) * y
        by_column = np.where(reduced > 0, self.lower, np.where(reduced < 0, self.upper, 0.0)) * reduced
        bound = self.offset + float(by_row.sum()) + float(by_column.sum())
        # Every sum above has at most `longest` terms; each of its roundings errs by at most 2^-53 of what was added.
        added = np.abs(self.cost) + _sums(self.column, np.abs(products), self.num_columns)
        scale = abs(self.offset) + float(np.abs(by_row).sum()) + float((added * widest).sum())
        longest = 8 + self.num_columns + self.num_rows
        return bound - 2.0**-52 * longest * scale


class Draft:
    """A matrix in the making: families of columns and rows, and how dependent columns follow from the others."""

    def __init__(self) -> None:
        self.offset = 0
        self.num_columns = self._num_rows = 0
        self._columns: list[tuple[Floats, Bools]] = []  # upper, integer
        self._rows: list[tuple[Floats, Floats]] = []
        self._entries: list[tuple[Ints, Ints, Floats]] = []
        self._costs: list[tuple[Ints, Floats]] = []
        self.fills: list[Callable[[Floats], None]] = []
        """In order, each sets the values of dependent columns from those of the columns before them."""

    def columns(self, count: int, upper: npt.ArrayLike = 1.0, *, integer: bool = False) -> Ints:
        """Indices of `count` new columns in [0, upper]."""
        first = self.num_columns
        self.num_columns += count
        self._columns.append((_spread(upper, count), np.full(count, integer)))
        return np.arange(first, self.num_columns)

    def rows(
        self,
        count: int,
        row: Ints,
        column: Ints,
        factor: npt.ArrayLike = 1.0,
        *,
        lower: npt.ArrayLike = -inf,
        upper: npt.ArrayLike = inf,
    ) -> None:
        """`count` new rows i: lower[i] <= sum of factor * v[column] over the entries with row == i <= upper[i]."""
        self._rows.append((_spread(lower, count), _spread(upper, count)))
        self._entries.append((row + self._num_rows, column, _spread(factor, row.size)))
        self._num_rows += count

    def cost(self, column: Ints, factor: npt.ArrayLike) -> None:
        """Add factor * v[column] to the objective."""
        self._costs.append((column, _spread(factor, column.size)))

    def running_sums(self, block: Ints, entry: Ints, column: Ints, factor: npt.ArrayLike, upper: npt.ArrayLike) -> Ints:
        """Columns u with u[i] = (u[i - 1] if block[i - 1] == block[i]) + sum of factor * v[column] where entry == i.

        Sparse stand-ins for long prefix sums; `block` is ascending.
        """
        count = block.size
        u, place = self.columns(count, upper), np.arange(count)
        goes_on = np.flatnonzero(block[1:] == block[:-1])
        factor = _spread(factor, entry.size)
        self.rows(
            count,
            np.concatenate([place, goes_on + 1, entry]),
            np.concatenate([u, u[goes_on], column]),
            np.concatenate([np.ones(count), -np.ones(goes_on.size), -factor]),
            lower=0.0,
            upper=0.0,
        )
        first = np.searchsorted(block, block)

        def fill(values: Floats) -> None:
            step = np.bincount(entry, weights=factor * values[column], minlength=count)
            total = np.cumsum(step)
            values[u] = total - (total - step)[first]

        self.fills.append(fill)
        return u

    def matrix(self, *, relaxed: bool = False) -> Matrix:
        """All of it; `relaxed`: no column need be whole.

        Dependent columns and costs are taken to be whole wherever the others are.
        """
        upper, integer = (np.concatenate(parts) for parts in zip(*self._columns, strict=True))
        row_lower, row_upper = (np.concatenate(parts) for parts in zip(*self._rows, strict=True))
        row, column, factor = (np.concatenate(parts) for parts in zip(*self._entries, strict=True))
        by_row = np.argsort(row, kind="stable")
        cost = np.zeros(self.num_columns)
        for priced, price in self._costs:
            np.add.at(cost, priced, price)
        return Matrix(
            offset=self.offset,
            cost=cost,
            lower=np.zeros(self.num_columns),
            upper=upper,
            integer=integer & (not relaxed),
            row_start=np.concatenate([[0], np.cumsum(np.bincount(row, minlength=self._num_rows))]),
            column=column[by_row],
            factor=factor[by_row],
            row_lower=row_lower,
            row_upper=row_upper,
            is_whole=True,
        )

    def completed(self, values: Floats) -> Floats:
        """`values` [n] with the dependent columns filled in, in place."""
        for fill in self.fills:
            fill(values)
        return values


class MatrixProblem(pulp.LpProblem):  # type: ignore[misc]
    """A `Matrix` as a minimisation in PuLP; column i is the i-th of `variables()`."""

    def __init__(self, name: str, matrix: Matrix) -> None:
        super().__init__(name, pulp.LpMinimize)
        self.matrix = matrix

    def materialise(self) -> None:
        """Make PuLP's variables, rows and objective, for whatever reads those; nothing on a second call."""
        if self._variables:
            return
        m = self.matrix
        category = np.where(m.integer, pulp.LpInteger, pulp.LpContinuous).tolist()
        bounds = zip(m.lower.tolist(), m.upper.tolist(), category, strict=True)
        columns = [self.add_variable(f"v{i:07d}", *rest) for i, rest in enumerate(bounds)]  # sorted by name = by index
        self._add_variables(columns)
        self += pulp.LpAffineExpression(zip(columns, m.cost.tolist(), strict=True), constant=m.offset)
        column, factor, start = m.column.tolist(), m.factor.tolist(), m.row_start.tolist()
        limits = zip(m.row_lower.tolist(), m.row_upper.tolist(), strict=True)
        for i, (low, high) in enumerate(limits):
            entries = range(start[i], start[i + 1])
            sum_of = pulp.LpAffineExpression([(columns[column[e]], factor[e]) for e in entries])
            sense = pulp.LpConstraintEQ if low == high else pulp.LpConstraintLE if low == -inf else pulp.LpConstraintGE
            self.addConstraint(pulp.LpConstraint(sum_of, sense, f"r{i:07d}", high if low == -inf else low))


def matrix_of(problem: pulp.LpProblem) -> Matrix:
    """The arrays of any minimisation in PuLP; columns in the order of `variables()`.

    Raises
    ------
    ValueError
        If it maximises.
    """
    if problem.sense != pulp.LpMinimize:
        raise ValueError(f"problem {problem.name} maximises: expected a minimisation")
    columns, rows = problem.variables(), problem.constraints()
    place = {column: i for i, column in enumerate(columns)}
    objective = problem.objective or {}
    sizes = [len(row) for row in rows]
    limits = [
        [-inf if low is None else low, inf if high is None else high]
        for low, high in [(v.lowBound, v.upBound) for v in columns] + [(r.getLb(), r.getUb()) for r in rows]
    ]
    low, high = np.array(limits, dtype=np.float64).reshape(-1, 2).T
    integer = np.array([column.cat == pulp.LpInteger for column in columns], dtype=np.bool_)
    cost = np.array([objective.get(column, 0.0) for column in columns], dtype=np.float64)
    offset = float(getattr(objective, "constant", 0.0))
    n = len(columns)
    return Matrix(
        offset=offset,
        cost=cost,
        lower=low[:n],
        upper=high[:n],
        integer=integer,
        row_start=np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))]),
        column=np.array([place[column] for row in rows for column in row], dtype=np.int64),
        factor=np.array([factor for row in rows for factor in row.values()], dtype=np.float64),
        row_lower=low[n:],
        row_upper=high[n:],
        is_whole=bool(integer.all() and (cost == np.rint(cost)).all() and offset == round(offset)),
    )


def _spread(values: npt.ArrayLike, count: int) -> Floats:
    return np.broadcast_to(np.asarray(values, dtype=np.float64), (count,))


def _sums(key: Ints, value: Floats, size: int) -> Floats:
    """[size] of 0.0 and up, also where there is nothing to add (then `bincount` gives integers)."""
    return np.bincount(key, weights=value, minlength=size).astype(np.float64)
