"""Batched logistic regression and ridge against scikit-learn; the same bits again; left-out rows."""

import numpy as np
import pytest

from medspectrum.engine import ridge as closed
from medspectrum.engine import solvers

linear = pytest.importorskip("sklearn.linear_model")
PENALTIES = np.array([10.0, 1.0, 0.1, 0.01, 1e-3])


def made(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    means = rng.normal(size=(k, d)) * 0.3
    rows = rng.normal(size=(n, d)) * np.linspace(2, 0.1, d) + means[labels] + 4
    return (rows / np.sqrt(rows.var(axis=0).sum())).astype(np.float32), labels


def objective(scores, labels, weights, w, penalty):
    if scores.shape[1] == 1:
        loss = np.logaddexp(0, scores[:, 0]) - labels * scores[:, 0]
    else:
        loss = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(labels)), labels]
    return (weights * loss).sum() + penalty / 2 * (w**2).sum()


@pytest.mark.parametrize(
    ("n", "d", "k"), [(6, 50, 2), (40, 200, 2), (30, 100, 5), (200, 12, 2), (150, 10, 3)]
)
def test_logistic_reaches_the_optimum(n, d, k):
    rows, labels = made(n, d, k)
    weights = solvers.class_weights(labels, k)
    fits, logits = solvers.logistic(rows, labels, classes=k, penalties=PENALTIES, weights=weights)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(fits[0].logits(rows), logits[0], atol=1e-8)
    for i, penalty in enumerate(PENALTIES):
        known = linear.LogisticRegression(
            C=1 / penalty, class_weight="balanced", tol=1e-10, solver="newton-cholesky"
        )
        known.fit(exact, labels)
        theirs = known.decision_function(exact).reshape(n, -1)
        best = objective(theirs, labels, weights, known.coef_, penalty)
        ours = objective(logits[0, i], labels, weights, fits[0].weights[i], penalty)
        assert ours <= best * (1 + 1e-9) + 1e-12
        assert np.abs(logits[0, i] - theirs).max() < 2e-3 * np.abs(theirs).max()


def test_folds_are_fits_without_the_cases_of_no_weight():
    rows, labels = made(30, 80, 3)
    weights = np.ones((3, 30))
    for i in range(3):
        weights[i, i::5] = 0
    fits, logits = solvers.logistic(rows, labels, classes=3, penalties=[1.0, 0.01], weights=weights)
    for i in range(3):
        kept = weights[i] > 0
        alone, _ = solvers.logistic(rows[kept], labels[kept], classes=3, penalties=[1.0, 0.01])
        np.testing.assert_allclose(alone[0].logits(rows), logits[i], atol=1e-5)
        np.testing.assert_allclose(alone[0].weights, fits[i].weights, atol=1e-5)


@pytest.mark.parametrize("k", [2, 4])
def test_a_batch_gives_what_each_problem_gives_alone(k):
    problems = [made(16, 90, k, seed=s) for s in range(5)]
    grams = np.stack([solvers.gram(rows) for rows, _ in problems])
    labels = np.stack([labels for _, labels in problems])
    weights = np.stack([solvers.class_weights(of_one, k) for of_one in labels])
    together = solvers.logistic_batch(grams, labels, weights, classes=k, penalties=PENALTIES)
    for i, (rows, of_one) in enumerate(problems):
        alone = solvers.logistic_batch(
            grams[i : i + 1], labels[i : i + 1], weights[i : i + 1], classes=k, penalties=PENALTIES
        )
        np.testing.assert_allclose(together[0][i], alone[0][0], rtol=1e-9, atol=1e-12)
        fits, _ = solvers.logistic(rows, of_one, classes=k, penalties=PENALTIES, weights=weights[i])
        np.testing.assert_allclose(
            np.matmul(rows.astype(np.float64).T, together[0][i]), fits[0].weights, atol=1e-5
        )


@pytest.mark.parametrize(("n", "d"), [(20, 100), (300, 40)])
def test_equal_calls_give_equal_bits(n, d):
    rows, labels = made(n, d, 3)
    first = solvers.logistic(rows, labels, classes=3, penalties=PENALTIES)
    for _ in range(3):
        again = solvers.logistic(rows, labels, classes=3, penalties=PENALTIES)
        np.testing.assert_array_equal(first[0][0].weights, again[0][0].weights)
        np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize(("n", "d"), [(100, 600), (500, 200)])
def test_the_number_of_threads_does_not_change_a_bit(n, d):
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    rows, labels = made(n, d, 2)
    found = []
    for threads in (1, 2):
        with limits(threads, user_api="blas"):
            fits, _ = solvers.logistic(rows, labels, classes=2, penalties=PENALTIES)
            found.append(
                (fits[0].weights, closed.ridge(rows, closed.class_targets(labels, 2), penalties=[1.0])[1])
            )
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_separable_cases_and_a_weak_penalty_come_to_an_end():
    rows, labels = made(40, 400, 2)
    fits, logits = solvers.logistic(rows, labels, classes=2, penalties=[1e-8])
    assert np.isfinite(fits[0].weights).all()
    assert ((logits[0, 0, :, 0] > 0) == labels).all()


@pytest.mark.parametrize(("n", "d", "k"), [(8, 60, 2), (30, 100, 4), (200, 15, 2), (120, 30, 3)])
def test_ridge_is_scikit_learns(n, d, k):
    rows, labels = made(n, d, k)
    targets, weights = closed.class_targets(labels, k), solvers.class_weights(labels, k) * 1.3
    fits, _ = closed.ridge(rows, targets, penalties=PENALTIES, weights=weights)
    exact = rows.astype(np.float64)
    for i, penalty in enumerate(PENALTIES):
        known = linear.Ridge(alpha=penalty).fit(exact, targets, sample_weight=weights)
        np.testing.assert_allclose(fits.logits(rows)[i], known.predict(exact).reshape(n, -1), atol=1e-7)
    if n <= d:
        coefficients, middle = closed.ridge_batch(
            solvers.gram(rows)[None], targets[None], weights[None], penalties=PENALTIES
        )
        w = np.matmul(exact.T, coefficients[0])
        np.testing.assert_allclose(w, fits.weights, atol=1e-7)
        mean = np.average(exact, axis=0, weights=weights)
        np.testing.assert_allclose(middle[0] - np.matmul(mean, w), fits.intercepts, atol=1e-7)


@pytest.mark.parametrize(("n", "d", "k"), [(12, 60, 2), (40, 8, 3)])
def test_left_out_predictions_are_those_of_a_fit_without_the_group(n, d, k):
    rows, labels = made(n, d, k)
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, n // 2, n))[rng.permutation(n)]
    targets, weights = closed.class_targets(labels, k), solvers.class_weights(labels, k)
    for by in (groups, np.arange(n)):
        _, left = closed.ridge(rows, targets, penalties=PENALTIES, weights=weights, groups=by)
        for g in np.unique(by):
            kept = by != g
            fits, _ = closed.ridge(rows[kept], targets[kept], penalties=PENALTIES, weights=weights[kept])
            np.testing.assert_allclose(left[:, ~kept], fits.logits(rows[~kept]), atol=1e-6)


def test_one_group_cannot_be_left_out():
    rows, labels = made(6, 20, 2)
    _, left = closed.ridge(
        rows, closed.class_targets(labels, 2), penalties=[1.0], groups=np.zeros(6, dtype=int)
    )
    assert np.isnan(left).all()


def test_class_weights_even_out():
    labels = np.array([0, 0, 0, 2])
    weights = solvers.class_weights(labels, 3)
    assert weights.sum() == pytest.approx(4)
    assert weights[:3].sum() == pytest.approx(weights[3])
