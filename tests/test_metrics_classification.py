"""Scores against scikit-learn's, over made-up predictions with ties, weights and missing classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medspectrum.metrics import classification as scores

sklearn_metrics = pytest.importorskip("sklearn.metrics")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sklearn")


@st.composite
def predictions(draw, most_classes=4):
    """Probabilities on a coarse grid (so that ties are common), truth, and whole-number weights."""
    k = draw(st.integers(2, most_classes))
    n = draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([3, 16, 10**6]))
    raw = rng.integers(1, steps + 1, size=(n, k)).astype(np.float64)
    truth = rng.integers(0, k, size=n)
    weights = rng.integers(0, 4, size=n).astype(np.float64)
    return raw / raw.sum(axis=1, keepdims=True), truth, weights


def defined(truth, weights, column):
    positive = truth == column
    return weights[positive].sum() > 0 and weights[~positive].sum() > 0


def same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@given(predictions())
@settings(max_examples=150, deadline=None)
def test_auc_and_average_precision_agree_with_sklearn(made):
    probabilities, truth, weights = made
    k = probabilities.shape[1]
    known = [c for c in range(k) if defined(truth, weights, c)]
    aucs, precisions = [], []
    for c in known:
        order = -probabilities[:, 1] if k == 2 and c == 0 else probabilities[:, c]
        aucs.append(sklearn_metrics.roc_auc_score(truth == c, order, sample_weight=weights))
        precisions.append(sklearn_metrics.average_precision_score(truth == c, order, sample_weight=weights))
    ours = scores.auc(probabilities, truth, weights)
    ours_precision = scores.average_precision(probabilities, truth, weights)
    if not known:
        assert np.isnan(ours)
        assert np.isnan(ours_precision)
    else:
        same(ours, np.mean(aucs))
        same(ours_precision, np.mean(precisions))


@given(predictions())
@settings(max_examples=150, deadline=None)
def test_decisions_agree_with_sklearn(made):
    probabilities, truth, weights = made
    k = probabilities.shape[1]
    called = probabilities.argmax(axis=1)
    if not weights.sum():
        assert np.isnan(scores.accuracy(probabilities, truth, weights))
        return
    same(
        scores.accuracy(probabilities, truth, weights),
        sklearn_metrics.accuracy_score(truth, called, sample_weight=weights),
    )
    kept = weights > 0  # a class whose cases all weigh nothing is not there
    same(
        scores.balanced_accuracy(probabilities, truth, weights),
        sklearn_metrics.balanced_accuracy_score(truth[kept], called[kept], sample_weight=weights[kept]),
    )
    same(
        scores.f1(probabilities, truth, weights),
        sklearn_metrics.f1_score(truth[kept], called[kept], sample_weight=weights[kept], average="macro"),
    )
    same(
        scores.log_loss(probabilities, truth, weights),
        sklearn_metrics.log_loss(truth, probabilities, sample_weight=weights, labels=range(k)),
    )
    assert (
        scores.confusion(probabilities, truth).tolist()
        == sklearn_metrics.confusion_matrix(truth, called, labels=range(k)).tolist()
    )


@given(predictions(most_classes=2))
@settings(max_examples=50, deadline=None)
def test_brier_is_twice_sklearns_for_two_classes(made):
    probabilities, truth, _ = made
    same(
        scores.brier(probabilities, truth),
        2 * np.mean((probabilities[:, 1] - truth) ** 2),
    )


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_many_weightings_give_what_each_gives_alone_and_repetition_is_weight(made):
    probabilities, truth, weights = made
    both = np.stack([weights, np.ones_like(weights)], axis=1)
    repeated = np.repeat(np.arange(len(truth)), weights.astype(int))
    for name, score in scores.SCORES.items():
        together = score(probabilities, truth, both)
        assert together.shape == (2,), name
        np.testing.assert_allclose(together[0], score(probabilities, truth, weights), atol=1e-12)
        np.testing.assert_allclose(together[1], score(probabilities, truth), atol=1e-12)
        if len(repeated):
            again = score(probabilities[repeated], truth[repeated])
            np.testing.assert_allclose(together[0], again, atol=1e-9, err_msg=name)


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_order_of_cases_does_not_matter(made):
    probabilities, truth, _ = made
    rng = np.random.default_rng(0)
    order = rng.permutation(len(truth))
    for name, score in scores.SCORES.items():
        np.testing.assert_allclose(
            score(probabilities[order], truth[order]), score(probabilities, truth), atol=1e-12, err_msg=name
        )


def test_tied_scores_count_half():
    probabilities = np.full((4, 2), 0.5)
    assert scores.auc(probabilities, np.array([0, 1, 0, 1])) == 0.5


def test_calibration_error_by_hand():
    # Two cases promised 0.9 of which one came true, two promised 0.6 of which two did.
    probabilities = np.array([[0.1, 0.9], [0.1, 0.9], [0.4, 0.6], [0.4, 0.6]])
    truth = np.array([1, 0, 1, 1])
    assert scores.calibration_error(probabilities, truth) == pytest.approx((0.4 * 2 + 0.4 * 2) / 4)
    curve = scores.calibration_curve(probabilities, truth)
    assert curve["cases"].tolist() == [2, 2]
    np.testing.assert_allclose(curve["probability"], [0.6, 0.9])
    np.testing.assert_allclose(curve["frequency"], [1.0, 0.5])
    of_first = scores.calibration_curve(probabilities, truth, column=0)
    np.testing.assert_allclose(of_first["frequency"], [0.5, 0.0])


def test_perfectly_calibrated_cases_have_a_small_error():
    rng = np.random.default_rng(1)
    p = rng.random(200_000)
    truth = (rng.random(len(p)) < p).astype(int)
    assert scores.calibration_error(np.stack([1 - p, p], axis=1), truth) < 0.006


def test_one_class_only_is_undefined_where_it_must_be():
    probabilities = np.array([[0.2, 0.8], [0.7, 0.3]])
    truth = np.array([1, 1])
    assert np.isnan(scores.auc(probabilities, truth))
    assert np.isnan(scores.average_precision(probabilities, truth))
    assert scores.accuracy(probabilities, truth) == 0.5
    found = scores.one_class(probabilities, truth, 1)
    assert found["sensitivity"] == 0.5
    assert np.isnan(found["specificity"])
    assert np.isnan(found["auc"])


def test_one_class_agrees_with_sklearn():
    rng = np.random.default_rng(2)
    raw = rng.random((300, 3))
    probabilities, truth = raw / raw.sum(axis=1, keepdims=True), rng.integers(0, 3, 300)
    called = probabilities.argmax(axis=1)
    for c in range(3):
        found = scores.one_class(probabilities, truth, c)
        same(found["sensitivity"], sklearn_metrics.recall_score(truth == c, called == c))
        same(found["specificity"], sklearn_metrics.recall_score(truth != c, called != c))
        same(found["precision"], sklearn_metrics.precision_score(truth == c, called == c))
        same(found["f1"], sklearn_metrics.f1_score(truth == c, called == c))
        same(found["auc"], sklearn_metrics.roc_auc_score(truth == c, probabilities[:, c]))


def test_probabilities_near_one_keep_their_order():
    # 1 - 1e-18 and 1 - 1e-20 are the same number, so the first class must be ordered by the second.
    p = np.array([1e-20, 1e-18, 1e-19, 1e-17])
    probabilities, truth = np.stack([1 - p, p], axis=1), np.array([0, 1, 0, 1])
    assert scores.auc(probabilities, truth) == 1.0
    assert scores.one_class(probabilities, truth, 0)["auc"] == 1.0
    assert scores.average_precision(probabilities, truth) == 1.0
