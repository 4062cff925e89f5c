"""Bring one image onto another: the warped image, its field, a transform for others, carried labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, formats, store
from medspectrum.errors import UserError
from medspectrum.image import Image


def register(
    moving: Path,
    fixed: Path,
    *,
    out: Path,
    method: str = "convex_adam",
    start: str = "auto",
    pre: str = "rigid",
    labels: Path | None = None,
    fixed_labels: Path | None = None,
    predictor: Path | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Bring a moving image onto a fixed one, by a displacement field that other programs can apply.

    moving: the image that is to be moved.
    fixed: the image that stays; all results lie on its grid.
    out: folder for warped, field.nii.gz, transform.mat, carried labels and registration.json.
    method: convex_adam (any contrasts), demons (one contrast, fast), affine, rigid; itk_demons and
    itk_bspline are SimpleITK's.
    start: header trusts the positions in the files, centres puts the middles of both onto each other,
    auto does that where a file has no position (a PNG) and trusts headers otherwise.
    pre: what comes before a dense method: rigid, affine or none.
    labels: label map on the moving image's grid, to be carried to the fixed one.
    fixed_labels: label map on the fixed image's grid; only scored, never used to register.
    predictor: the folder 'predictor' of a finished run of the task register; its method, settings and
    encoder are taken, and method, start and pre must not be given.
    cache: folder for features of an encoder, shared between runs.

    Returns the content of registration.json: seconds, share of folding voxels, likeness before and after,
    Dice where both label maps are given. The field is in RAS mm on the fixed grid and leads from a fixed
    point to the moving one; SimpleITK reads field.nii.gz (which it turns to LPS) and transform.mat.
    Raises UserError where the images do not overlap, are blank, or labels do not fit their image.
    """
    from medspectrum.engine.align.carry import carried
    from medspectrum.engine.align.files import write_alignment, write_image
    from medspectrum.engine.align.pipeline import align

    a, b = formats.read(moving), formats.read(fixed)
    own = None if labels is None else _label_map(labels, a, moving)
    truth = None if fixed_labels is None else _label_map(fixed_labels, b, fixed)
    if predictor is not None:
        if (method, start, pre) != ("convex_adam", "auto", "rigid"):
            raise UserError("give a predictor, or method, start and pre, not both; a predictor holds its own")
        a, b, found = _predictor(predictor, cache).align(formats.lazy(moving), formats.lazy(fixed))
    else:
        if start == "auto":
            start = "header" if a.spacing_known and b.spacing_known else "centres"
        try:
            found = align(a, b, method=method, start=start, pre=pre)
        except UserError as error:
            raise UserError(f"{moving} onto {fixed}: {error}") from None
    folder = Path(out)
    picture = formats.kind(fixed) in ("raster", "tiff")
    told = {
        "version": __version__,
        "moving": str(moving),
        "fixed": str(fixed),
        "out": str(folder),
        **write_alignment(a, b, found, folder, picture=picture),
    }
    if own is not None:
        brought = carried(own, found.fixed, found.field)
        told["files"]["labels"] = write_image(brought, folder / "labels", picture=picture)
        if truth is not None:
            from medspectrum.metrics.registration import carried_dice

            scores = carried_dice(brought.array[0], truth.array[0])
            told["dice"] = {str(k): None if np.isnan(v) else round(v, 5) for k, v in scores.items()}
    store.write_json(folder / "registration.json", told)
    return told


def _predictor(folder: Path, cache: Path | None) -> Any:
    """The predictor in that folder. Raises UserError where it is for another task."""
    from medspectrum.predictor import load_predictor

    saved = load_predictor(Path(folder), cache=store.cache_folder(cache))
    if saved.facts["task"] != "register":
        raise UserError(f"{folder}: is for the task {saved.facts['task']}; give one made by --task register")
    return saved.predictor


def _label_map(path: Path, image: Image, of: Path) -> Image:
    """The label map in that file, on its image's grid. Raises UserError where it does not fit."""
    read = formats.read(path)
    if read.array.shape != (1, *image.size):
        raise UserError(
            f"{path}: is {_sides(read)} and its image {of} is {_sides(image)}; "
            "a label map needs one value per voxel of its image: resample it to the image's grid"
        )
    apart = np.abs(read.affine - image.affine).max()
    if read.spacing_known and image.spacing_known and apart > 1e-2 * max(1.0, max(image.spacing_mm)):
        raise UserError(
            f"{path}: lies elsewhere in space than its image {of} (their affines differ by {apart:.3g} mm); "
            "resample it to the image's grid or correct its header"
        )
    array = read.array
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            raise UserError(f"{path}: holds values that are no whole numbers; give a map of labels")
        array = whole.astype(np.int32)
    return Image(array, image.affine, read.modality, image.spacing_known)


def _sides(image: Image) -> str:
    z, y, x = image.size
    channels = f", {image.array.shape[0]} channels" if image.array.shape[0] > 1 else ""
    return f"{x} x {y} x {z} voxels{channels}"
