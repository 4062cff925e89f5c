"""How much noise a promise of differential privacy asks for: the Gaussian mechanism, calibrated exactly.

A sum to which no patient adds more than length 1, published with normal noise of deviation s, is as hard to
tell from the sum without that patient as N(0, 1) is from N(mu, 1) with mu = 1/s (Dong, Roth and Su 2022,
"Gaussian differential privacy", doi:10.1111/rssb.12454). Several such sums together have the root of the sum
of the squared mu; that is exact, so that no accountant's bound is given away. mu and (epsilon, delta) belong
together by theorem 8 of Balle and Wang 2018 (arXiv:1805.06530).
"""

from __future__ import annotations

import math
from typing import Any

from medspectrum.errors import UserError


def delta_of(mu: float, epsilon: float) -> float:
    """The least delta that goes with that epsilon where all that is published has the strength ``mu``."""
    from scipy.special import log_ndtr, ndtr

    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def strength(epsilon: float, delta: float) -> float:
    """The largest mu that keeps (epsilon, delta). Raises UserError for values that promise nothing."""
    from scipy.optimize import brentq

    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise UserError(f"epsilon is a number above 0, not {epsilon}; 1 to 8 are usual.")
    if not 0 < delta < 1:
        raise UserError(f"delta lies between 0 and 1, not at {delta}; take less than one over the patients.")
    high = 1.0
    while delta_of(high, epsilon) < delta:
        high *= 2
    found: Any = brentq(lambda mu: delta_of(mu, epsilon) - delta, 1e-9, high, xtol=1e-12)
    return float(found)
