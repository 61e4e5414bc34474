"""From cuts and multipliers to a proved number, in whole numbers. Knows factors; knows nothing of scheduling."""

from fractions import Fraction

import numpy as np

from hexsolve_models.offline.bounds.pools import Bools, Floats

_BITS = 40
# A factor is a sum of fewer than 2^14 non-negative terms, each of a few roundings by 2^-53 at most: all of them
# together are less than 2^-36 of it.
_DEFLATE = 1.0 - 2.0**-36


def at_most(possible: Bools, factors: Floats, multipliers: Floats) -> Fraction:
    """Upper bound on how many w can be chosen from `possible` [W] so that every cut k holds.

    Cut k: sum of factors[k, w] over the chosen w <= 1; factors >= 0 may err by 2^-36 of themselves. For any multipliers
    y >= 0: the number of chosen w is at most sum_k y_k + sum_w max(0, 1 - sum_k y_k factors[k, w]). Rounded down
    factors only raise it, so that everything can be done in integers.
    """
    used = np.flatnonzero(np.isfinite(multipliers) & (multipliers > 2.0**-_BITS))
    one = 1 << _BITS
    weights = [int(y * one) for y in multipliers[used].tolist()]
    total = one * sum(weights)
    scaled = np.floor(np.minimum(factors[used][:, possible], 2.0**20) * (_DEFLATE * one))
    for column in scaled.T.astype(np.int64).tolist():
        total += max(0, one * one - sum(y * e for y, e in zip(weights, column, strict=True)))
    return Fraction(total, one * one)
