"""Folding, evenness, landmark errors and carried labels: against known maps and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest

from made_phantom import centred, lattice_mm, turn_about, wave
from medspectrum.metrics.registration import (
    carried_dice,
    displacement_at,
    folding_fraction,
    jacobian_determinant,
    landmark_errors_mm,
    log_jacobian_std,
)

SIZE, SPACING = (9, 11, 13), (2.0, 1.0, 0.7)


def oblique() -> np.ndarray:
    made = centred(SIZE, SPACING)
    made[:3, :3] = turn_about(np.array([1.0, 2, 3]), 25) @ made[:3, :3]
    return made


def test_an_affine_map_has_its_determinant_everywhere():
    affine = oblique()
    matrix = np.array([[1.2, 0.1, 0], [0, 0.8, 0.05], [0.1, 0, 1.1]])
    field = lattice_mm(SIZE, affine) @ (matrix - np.eye(3)).T
    np.testing.assert_allclose(jacobian_determinant(field, affine), np.linalg.det(matrix), rtol=1e-9)
    assert folding_fraction(field, affine) == 0
    assert log_jacobian_std(field, affine) < 1e-9


def test_determinants_equal_simpleitks():
    sitk = pytest.importorskip("SimpleITK")
    affine = centred(SIZE, SPACING)
    field = wave(lattice_mm(SIZE, affine), height_mm=3, length_mm=9).astype(np.float32)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    image = sitk.GetImageFromArray((field * [-1, -1, 1]).astype(np.float64), isVector=True)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / np.array(SPACING[::-1])).ravel().tolist())
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image, True))
    ours = jacobian_determinant(field, affine)
    inner = (slice(1, -1),) * 3
    # ITK takes the slopes along the stored axes; with axes that point to -x, -y both sign changes cancel
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-5)
    assert (ours[inner] <= 0).any()


def test_a_mirror_folds_everywhere_and_a_mask_chooses():
    affine = centred(SIZE, SPACING)
    points = lattice_mm(SIZE, affine)
    field = np.zeros((*SIZE, 3))
    field[..., 0] = np.where(points[..., 0] > 0, -2 * points[..., 0], 0)
    # 6 of 13 columns are mirrored; at the mirror itself the mean of both slopes gives 0
    assert folding_fraction(field, affine) == pytest.approx(7 / 13)
    assert folding_fraction(field, affine, points[..., 0] < -1) == 0
    assert folding_fraction(field, affine, points[..., 0] > 1) == 1
    with pytest.raises(ValueError, match="mask"):
        folding_fraction(field, affine, np.zeros(SIZE, bool))


def test_a_picture_has_determinants_of_its_plane():
    affine = centred((1, 20, 20), (1, 0.5, 0.5))
    field = lattice_mm((1, 20, 20), affine) * [0.1, -0.2, 0]
    np.testing.assert_allclose(jacobian_determinant(field, affine), 1.1 * 0.8, rtol=1e-9)


def test_landmarks_end_where_the_field_sends_them():
    affine = oblique()
    field = np.broadcast_to(np.array([3.0, -1, 2]), (*SIZE, 3))
    fixed = lattice_mm(SIZE, affine).reshape(-1, 3)[::17] + 0.2
    np.testing.assert_allclose(
        landmark_errors_mm(fixed, fixed + np.array([3, -1, 2]), field, affine), 0, atol=1e-9
    )
    np.testing.assert_allclose(landmark_errors_mm(fixed, fixed, field, affine), np.sqrt(14))
    slope = lattice_mm(SIZE, affine) @ np.array([[0.1, 0, 0.2], [0, 0.3, 0], [0.1, 0, 0]])
    inside = lattice_mm(SIZE, affine)[2:-2, 2:-2, 2:-2].reshape(-1, 3)[::5] + 0.1
    expected = inside @ np.array([[0.1, 0, 0.2], [0, 0.3, 0], [0.1, 0, 0]])
    np.testing.assert_allclose(displacement_at(inside, slope, affine), expected, atol=1e-9)
    with pytest.raises(ValueError, match="pairs"):
        landmark_errors_mm(fixed, fixed[:3], field, affine)


def test_dice_of_carried_labels():
    truth = np.array([[[0, 1, 1, 2, 0]]])
    assert carried_dice(np.array([[[0, 1, 2, 2, 0]]]), truth) == {1: 2 / 3, 2: 2 / 3}
    assert np.isnan(carried_dice(truth, truth, labels=[9])[9])
    with pytest.raises(ValueError, match="shape"):
        carried_dice(truth, truth[0])
