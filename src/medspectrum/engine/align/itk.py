"""SimpleITK's demons and B-splines behind the same interface: what ours is measured against.

Fixed and moving go over in single precision with equal histograms (demons compare brightness), on the
fixed image's own grid; the result comes back as a field on that grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medspectrum.engine.align.grid import grid_of, lattice_points
from medspectrum.engine.align.mind import grey
from medspectrum.errors import UserError
from medspectrum.image import Image

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
DEMONS_LEVELS = ((4, 30), (2, 30), (1, 20))


def simpleitk() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import SimpleITK
    except ImportError as error:
        raise UserError('this method needs SimpleITK: pip install "medspectrum[itk]"') from error
    return SimpleITK


def to_itk(image: Image) -> Any:
    """One channel of an image as SimpleITK's, in LPS mm."""
    sitk = simpleitk()
    lps = _TO_LPS @ image.affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    made = sitk.GetImageFromArray(np.ascontiguousarray(image.array[0]))
    made.SetOrigin(lps[:3, 3].tolist())
    made.SetSpacing(spacing.tolist())
    made.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return made


def run(
    moving: Image, fixed: Image, first: np.ndarray, *, method: str, pre: str
) -> tuple[np.ndarray, np.ndarray]:
    """(field on the fixed grid in RAS mm, the rigid or affine part in RAS mm).

    first: the map to begin with. method: ``itk_demons`` or ``itk_bspline``. pre: rigid, affine or none.
    """
    sitk = simpleitk()
    a, b = to_itk(grey(moving)), to_itk(grey(fixed))
    if min(b.GetSize()) == 1 or min(a.GetSize()) == 1:
        raise UserError("SimpleITK's methods are for volumes here; use convex_adam or demons for pictures")
    whole = _start(a, b, first, pre)
    if method == "itk_demons":
        near = sitk.Resample(a, b, whole, sitk.sitkLinear, 0.0)
        near = sitk.HistogramMatching(near, b, 128, 7, True)
        dense = demons_field(b, near)
    else:
        near = sitk.Resample(a, b, whole, sitk.sitkLinear, 0.0)
        spline = bspline(b, near)
        dense = sitk.TransformToDisplacementField(
            spline, sitk.sitkVectorFloat64, b.GetSize(), b.GetOrigin(), b.GetSpacing(), b.GetDirection()
        )
    matrix = _matrix(whole)
    grid = grid_of(fixed)
    move = sitk.GetArrayFromImage(dense) * np.array([-1.0, -1.0, 1.0])
    here = lattice_points(slice(0, grid.size[0]), grid.size, grid.affine).numpy()
    there = here + move
    return (there @ matrix[:3, :3].T + matrix[:3, 3] - here).astype(np.float32), matrix


def demons_field(
    fixed: Any, moving: Any, *, levels: tuple[tuple[int, int], ...] = DEMONS_LEVELS, smooth: float = 1.2
) -> Any:
    """Fast symmetric forces demons, coarse to fine: a field image on the fixed grid, LPS mm."""
    sitk = simpleitk()
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetStandardDeviations(smooth)
    demons.SetSmoothDisplacementField(True)
    field: Any = None
    for coarser, rounds in levels:
        a, b = (_shrunk(v, coarser) for v in (fixed, moving))
        demons.SetNumberOfIterations(rounds)
        begun = () if field is None else (sitk.Resample(field, a),)
        field = demons.Execute(a, b, *begun)
    return sitk.Resample(field, fixed) if field.GetSize() != fixed.GetSize() else field


def _shrunk(image: Any, times: int) -> Any:
    sitk = simpleitk()
    if times == 1:
        return image
    factors = [min(times, max(1, n // 8)) for n in image.GetSize()]
    smoothed = sitk.SmoothingRecursiveGaussian(
        image, [max(0.5 * f * s, 1e-3) for f, s in zip(factors, image.GetSpacing(), strict=True)]
    )
    return sitk.Shrink(smoothed, factors)


def bspline(fixed: Any, moving: Any, *, mesh_mm: float = 8.0, rounds: int = 60) -> Any:
    """A B-spline transform by L-BFGS on correlation, in two resolutions."""
    sitk = simpleitk()
    extent = [n * s for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    mesh = [max(1, round(e / mesh_mm / 2)) for e in extent]
    spline = sitk.BSplineTransformInitializer(fixed, mesh, 3)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-4, numberOfIterations=rounds)
    method.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 2])
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.5])
    return method.Execute(fixed, moving)


def _start(moving: Any, fixed: Any, first: np.ndarray, pre: str) -> Any:
    """SimpleITK's own rigid or affine registration by correlation, from the given map."""
    sitk = simpleitk()
    lps = _TO_LPS @ first @ _TO_LPS
    kind = sitk.Euler3DTransform if pre == "rigid" else lambda: sitk.AffineTransform(3)
    middle = [(n - 1) / 2 for n in fixed.GetSize()]
    begun = kind()
    begun.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(middle))
    centre = np.array(begun.GetCenter())
    begun.SetMatrix(lps[:3, :3].ravel().tolist())
    begun.SetTranslation((lps[:3, 3] + lps[:3, :3] @ centre - centre).tolist())
    if pre == "none":
        return begun
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    method.SetInitialTransform(begun, inPlace=True)
    method.Execute(fixed, moving)
    return begun


def _matrix(transform: Any) -> np.ndarray:
    """(4, 4) in RAS mm of a linear SimpleITK transform."""
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = matrix, shift + centre - matrix @ centre
    return _TO_LPS @ lps @ _TO_LPS
