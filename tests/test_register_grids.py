"""Fields on oblique, flipped, anisotropic and single-slice grids: SimpleITK moves the image as we do."""

from __future__ import annotations

import numpy as np
import pytest

from made_phantom import brightness, centred, lattice_mm, phantom, turn_about, turned, wave
from medspectrum.engine.align.carry import warped
from medspectrum.engine.align.files import write_alignment
from medspectrum.engine.align.grid import grid_of, linear, resampled
from medspectrum.engine.align.pipeline import Alignment, align
from medspectrum.formats import nifti
from medspectrum.image import Image

TILT = turn_about(np.array([1.0, -2, 0.5]), 25)


def tilted(image: Image) -> Image:
    affine = image.affine.copy()
    affine[:3] = TILT @ affine[:3]
    return Image(image.array, affine, image.modality)


GRIDS = {
    "oblique": lambda i: tilted(i),
    "oblique and flipped": lambda i: tilted(turned(i, (2, 0, 1), (1, 0, 1))),
    "mirrored": lambda i: turned(i, (0, 1, 2), (1, 0, 0)),
}


@pytest.mark.parametrize("name", sorted(GRIDS))
@pytest.mark.parametrize("spacing", [(1.3, 1.0, 0.8), (4.0, 1.0, 0.8)], ids=["even", "anisotropic"])
def test_simpleitk_applies_what_is_written(name, spacing, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    fixed = GRIDS[name](phantom((round(26 / spacing[0]), 24, 28), spacing, kind=np.int16))
    moving = tilted(phantom((22, 27, 25), (1.1, 0.9, 1.2), kind=np.int16))
    field = wave(lattice_mm(fixed.size, fixed.affine), height_mm=1.5).astype(np.float32)
    found = Alignment(field, grid_of(fixed), np.eye(4))
    told = write_alignment(moving, fixed, found, tmp_path, picture=False)
    nifti.write(moving, tmp_path / "moving.nii.gz")
    nifti.write(fixed, tmp_path / "fixed.nii.gz")
    a, b = (sitk.ReadImage(str(tmp_path / f"{n}.nii.gz"), sitk.sitkFloat64) for n in ("moving", "fixed"))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / told["files"]["warped"])))
    transform = sitk.ReadTransform(str(tmp_path / told["files"]["transform"]))
    lowest = float(sitk.GetArrayFromImage(a).min())
    theirs = sitk.GetArrayFromImage(sitk.Resample(a, b, transform, sitk.sitkLinear, lowest))
    assert ours.std() > 50
    assert (np.abs(theirs - ours) > 0.6).mean() < 2e-3


def test_images_read_through_a_map_are_the_same_as_point_by_point():
    """The quick way within a registration against the exact one, on grids that share nothing."""
    import torch

    image = tilted(phantom((13, 17, 11), (2.0, 1.1, 1.7)))
    grid = grid_of(turned(phantom((12, 10, 15), (1.5, 2.2, 1.3)), (1, 2, 0), (0, 1, 0)))
    quick = resampled(image, grid, np.eye(4), fill=-1.0)
    voxels = lattice_mm(grid.size, np.linalg.inv(image.affine) @ grid.affine)
    exact = linear(torch.from_numpy(image.array), torch.from_numpy(voxels), fill=-1.0)
    differs = (quick - exact).abs() > 1e-3
    assert float(differs.float().mean()) < 2e-3  # points on the very edge may fall to either side
    assert 0.1 < float((exact == -1).float().mean()) < 0.9


def test_tilted_and_anisotropic_volumes_are_registered():
    def motion(points):
        return points + np.array([2.0, -1.5, 1.0])

    moving = tilted(phantom((36, 36, 36), back=lambda p: p))
    size, spacing = (11, 36, 36), (3.2, 1.0, 1.0)
    fixed = tilted(phantom(size, spacing, back=motion))
    found = align(moving, fixed, method="rigid")
    points = lattice_mm(size, centred(size, spacing))
    expected = (motion(points) - points) @ TILT.T
    where = brightness(motion(points)) > 0.2
    assert np.linalg.norm(found.field - expected, axis=-1)[where].mean() < 1.2  # slices are 3.2 mm apart


def test_a_single_slice_on_itself_and_in_a_volume():
    """A slice with a place in space: onto a slice it moves in its plane."""
    size = (1, 40, 44)
    affine = centred(size, (3.0, 0.9, 0.9))
    moving = phantom(size, affine=affine)
    fixed = phantom(size, affine=affine, back=lambda p: p + np.array([1.5, -1.0, 0.0]))
    found = align(moving, fixed, method="rigid")
    assert np.abs(found.field[..., 2]).max() < 1e-4
    assert found.facts["mind_distance_after"] < 0.5 * found.facts["mind_distance_before"]
    volume = phantom((20, 40, 44), (1.5, 0.9, 0.9))
    mixed = align(moving, volume, method="rigid")
    assert np.isfinite(mixed.field).all()
    assert np.isfinite(warped(moving, mixed.fixed, mixed.field).array).all()
