"""The sweep over models, labelled sets and penalties gives what each fit gives alone."""

import numpy as np
import pytest

from medspectrum.engine.few_shot import sweep
from medspectrum.engine.ridge import class_targets, ridge
from medspectrum.engine.solvers import class_weights, logistic

PENALTIES = [1.0, 0.1, 0.01]


def made(k):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % k
    features = [
        (rng.normal(size=(60, d)) / np.sqrt(d) + 0.2 * labels[:, None] / np.sqrt(d)).astype(np.float32)
        for d in (90, 64)
    ]
    order = [rng.permutation(np.flatnonzero(labels == c)) for c in range(k)]
    sets = [np.concatenate([some[:n] for some in order]) for n in (1, 3, 8)]
    return features, labels, sets


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_sweep_is_the_single_fits(k, head):
    features, labels, sets = made(k)
    found = sweep(features, labels, sets, classes=k, penalties=PENALTIES, head=head)
    for rows, fits in zip(features, found, strict=True):
        for of_set, fit in zip(sets, fits, strict=True):
            x, y = rows[of_set], labels[of_set]
            weights = class_weights(y, k)
            if head == "ridge":
                alone, _ = ridge(x, class_targets(y, k), penalties=PENALTIES, weights=weights)
            else:
                alone = logistic(x, y, classes=k, penalties=PENALTIES, weights=weights)[0][0]
            np.testing.assert_allclose(fit.logits(rows), alone.logits(rows), atol=1e-5)


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_threads_and_repetition_do_not_change_a_bit(head):
    features, labels, sets = made(2)
    first, again, one = (
        sweep(features, labels, sets, classes=2, penalties=PENALTIES, head=head, threads=threads)
        for threads in (2, 2, 1)
    )
    for a, b, c in zip(first, again, one, strict=True):
        for x, y, z in zip(a, b, c, strict=True):
            np.testing.assert_array_equal(x.weights, y.weights)
            np.testing.assert_array_equal(x.weights, z.weights)
            np.testing.assert_array_equal(x.intercepts, z.intercepts)


def test_a_set_without_a_class_is_refused():
    features, labels, _ = made(2)
    with pytest.raises(ValueError, match="lacks one"):
        sweep(features, labels, [np.flatnonzero(labels == 0)], classes=2, penalties=PENALTIES)
