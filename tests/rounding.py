"""How far two right results may lie apart: tolerances that follow from float32, and not from one processor.

Processors differ in the order in which they sum (vector widths, blocks of a product, fused multiply-adds), and nothing
else. A sum of n numbers in float32 is off by at most n U times the sum of their magnitudes, U = 2**-24, and by about
sqrt(n) U where the roundings are independent (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 3-4).
"""

from __future__ import annotations

import math

U = 2.0**-24
"""The unit roundoff of float32: half the distance from 1 to the next number."""


def of_sums(terms: int, layers: int = 1) -> float:
    """Relative to the largest value: sums of so many terms, one after the other through so many layers, twice.

    Roundings are taken as independent, with four standard deviations to spare: elements are many, so that some lie far
    out.
    """
    return 4 * math.sqrt(2 * terms * layers) * U
