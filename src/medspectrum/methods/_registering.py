"""What methods that register share: a predictor that aligns pairs, and an encoder's maps as features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medspectrum.case import Case, LazyImage, PairTarget, Task
from medspectrum.engine import planes
from medspectrum.engine.align.carry import carried, warped
from medspectrum.engine.align.grid import Grid, grid_of, plane_of
from medspectrum.engine.align.mind import grey
from medspectrum.engine.align.pipeline import Alignment, align
from medspectrum.engine.threads import one_blas_thread
from medspectrum.errors import UserError
from medspectrum.formats.mask_grid import on_grid
from medspectrum.image import Image
from medspectrum.labelmap import LabelMap
from medspectrum.methods._dense import in_batches, maps_of
from medspectrum.metrics.registration import displacement_at, folding_fraction, log_jacobian_std
from medspectrum.registered import Registered

if TYPE_CHECKING:
    import torch

    from medspectrum.engine.encoder import Encoder

LONGEST_SHOWN = 512
FEATURE_SIDE = 64  # of the raster on which an encoder's maps are joined, at most
FEATURE_VOXELS = 300_000  # of a feature image, at most; registration itself works on fewer
IMAGES_LOOKED_AT, PLANES_LOOKED_AT, PLACES_LOOKED_AT = 16, 6, 256


@dataclasses.dataclass(frozen=True)
class RegisterPredictor:
    """Brings the image ``moving`` of a case onto its image ``fixed``; ``case.Predictor`` of registrations.

    classes, values: the labels that are carried, and what stands for them in masks. how, settings: method
    and further arguments of ``pipeline.align``. model, mean, turn: encoder and principal components of
    its maps, where they serve as features.
    """

    classes: tuple[str, ...]
    values: tuple[int, ...]
    how: str
    settings: dict[str, Any]
    model: Encoder | None = None
    mean: np.ndarray | None = None
    turn: np.ndarray | None = None
    trained_parameters: int = 0

    def predict(self, cases: Sequence[Case]) -> list[Registered]:
        """One outcome per pair. Raises UserError for a case without the images moving and fixed."""
        return [self._one(case) for case in cases]

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Nothing is learned but, with an encoder, the components of its maps."""
        arrays = {"mean": self.mean, "turn": self.turn}
        settings = {
            "classes": list(self.classes),
            "values": list(self.values),
            "how": self.how,
            "settings": dict(self.settings),
        }
        return {name: a for name, a in arrays.items() if a is not None}, settings

    def align(self, moving: LazyImage, fixed: LazyImage) -> tuple[Image, Image, Alignment]:
        """Both images and what was found. Headers are trusted where both have them and they overlap."""
        a, b = moving.load(), fixed.load()
        features = None
        if self.model is not None and self.mean is not None and self.turn is not None:
            features = (
                feature_image(self.model, moving, a, self.mean, self.turn),
                feature_image(self.model, fixed, b, self.mean, self.turn),
            )
        known = a.spacing_known and b.spacing_known
        refused: UserError | None = None
        for start in ("header", "centres") if known else ("centres",):
            try:
                found = align(a, b, method=self.how, start=start, features=features, **self.settings)
            except UserError as error:
                refused = refused or error
                continue
            return a, b, found
        raise UserError(f"{moving.source} onto {fixed.source}: {refused}")

    def _one(self, case: Case) -> Registered:
        moving, fixed = pair_of(case)
        a, b, found = self.align(moving, fixed)
        target = case.asked(PairTarget)
        labels = points = None
        if target is not None and target.masks is not None:
            own = self._labels(target, a, moving.source)
            labels = carried(own, found.fixed, found.field).array[0]
        if target is not None and target.landmarks is not None:
            voxels = np.array(target.landmarks[1], float).reshape(-1, 3)
            here = voxels @ b.affine[:3, :3].T + b.affine[:3, 3]
            points = here + displacement_at(here, found.field, b.affine)
        plane = shown_plane(b, labels)
        facts = {
            "folding": folding_fraction(found.field, b.affine),
            "log_jacobian_std": log_jacobian_std(found.field, b.affine),
            "alike_before": found.facts["mind_distance_before"],
            "alike_after": found.facts["mind_distance_after"],
            "seconds": found.facts["seconds"],
        }
        return Registered(
            None if labels is None else LabelMap.of(labels),
            points,
            _picture(a, found.fixed, found.field, plane),
            plane,
            facts,
        )

    def _labels(self, target: PairTarget, image: Image, source: str) -> Image:
        assert target.masks is not None
        mask = target.masks[0].mask
        values = on_grid(mask.load(), image, mask.source, source)
        places = np.zeros(values.shape, np.uint8)
        for place, value in enumerate(self.values, start=1):
            places[values == value] = place
        return Image(places[None], image.affine, "", image.spacing_known)


def pair_of(case: Case) -> tuple[LazyImage, LazyImage]:
    """The case's images ``moving`` and ``fixed``. Raises UserError where it has others."""
    try:
        return case.images["moving"], case.images["fixed"]
    except KeyError:
        raise UserError(
            f"case {case.id} is no pair; registration takes pairs: a table with a column 'moving' and a "
            "column 'fixed' that name the two images of each row"
        ) from None


def shown_plane(image: Image, labels: np.ndarray | None) -> tuple[int, int]:
    """(axis, place): the plane, along the widest spacing, with most labels, else the middle one."""
    from medspectrum import transforms

    axis = transforms.through_plane_axis(image) - 1 if image.is_volume else 0
    if labels is not None and labels.any():
        return axis, int((labels > 0).sum(axis=tuple(a for a in range(3) if a != axis)).argmax())
    return axis, image.size[axis] // 2


def _picture(moving: Image, fixed: Grid, field: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
    """The warped image in one plane of the fixed grid, (h, w) uint8, at most 512 along a side."""
    axis, place = plane
    flat = warped(grey(moving), plane_of(fixed, axis, place), np.take(field, [place], axis=axis), fill=0.0)
    pixels = np.take(flat.array[0], 0, axis=axis)
    step = -(-max(pixels.shape) // LONGEST_SHOWN)
    return np.rint(255 * pixels[::step, ::step]).astype(np.uint8)


def restored(
    model: Encoder | None, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> RegisterPredictor:
    """A predictor from its state."""
    return RegisterPredictor(
        tuple(settings["classes"]),
        tuple(settings["values"]),
        settings["how"],
        dict(settings["settings"]),
        model if arrays else None,
        arrays.get("mean"),
        arrays.get("turn"),
    )


def predictor_for(task: Task, how: str, **settings: Any) -> RegisterPredictor:
    """A predictor that learns nothing."""
    return RegisterPredictor(tuple(task.classes), tuple(task.settings()["values"]), how, settings)


# -- an encoder's maps as features ------------------------------------------------------------------


def joined(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Maps (n, c, h, w) of several sizes on one raster, side by side: (n, sum of c, side, side)."""
    import torch
    import torch.nn.functional as F

    side = min(max(m.shape[-1] for m in maps), FEATURE_SIDE)
    same = [F.interpolate(m.float(), (side, side), mode="bilinear", align_corners=False) for m in maps]
    return torch.cat(same, dim=1)


@one_blas_thread
def components(
    model: Encoder, images: Sequence[LazyImage], *, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(mean (C,), turn (C, k)): principal components of standardised maps at drawn places of some images."""
    rng = np.random.default_rng(seed)
    drawn = []
    for number in sorted(rng.permutation(len(images))[:IMAGES_LOOKED_AT]):
        own = planes.cut(images[int(number)])
        some = np.unique(np.linspace(0, len(own.planes) - 1, PLANES_LOOKED_AT + 2)[1:-1].round().astype(int))
        maps = joined(maps_of(model, [(own.planes[int(i)],) for i in some]))
        top, left, height, width = planes.window_of(own.plane, model.size[-1])
        scale = maps.shape[-1] / model.size[-1]
        seen = maps[
            ...,
            int(top * scale) : max(int((top + height) * scale), int(top * scale) + 1),
            int(left * scale) : max(int((left + width) * scale), int(left * scale) + 1),
        ]
        rows = seen.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).numpy()
        drawn.append(rows[rng.permutation(len(rows))[: PLACES_LOOKED_AT * len(some)]])
    rows = np.concatenate(drawn).astype(np.float64)
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    values, vectors = np.linalg.eigh(np.cov(((rows - mean) / spread).T))
    kept = np.argsort(-values)[:count]
    turn = vectors[:, kept] / spread[:, None]
    return mean.astype(np.float32), turn.astype(np.float32)


def feature_image(model: Encoder, lazy: LazyImage, image: Image, mean: np.ndarray, turn: np.ndarray) -> Image:
    """Components of the encoder's maps as an image (k, Z, Y, X) in the place of the image, planes kept."""
    import torch
    import torch.nn.functional as F

    own = planes.cut(lazy)
    height, width = own.plane
    shrink = min(1.0, (FEATURE_VOXELS / (len(own.planes) * height * width)) ** 0.5)
    h, w = max(1, round(height * shrink)), max(1, round(width * shrink))
    rows, columns = np.meshgrid(
        (np.arange(h) + 0.5) * height / h - 0.5, (np.arange(w) + 0.5) * width / w - 0.5, indexing="ij"
    )
    places = planes.points(own.plane, model.size[-1], rows, columns)
    found = []
    for some in in_batches([(plane,) for plane in own.planes]):
        maps = joined(maps_of(model, some))
        flat = maps.permute(0, 2, 3, 1) - torch.from_numpy(mean)
        small = (flat @ torch.from_numpy(turn)).permute(0, 3, 1, 2)
        many = places.expand(len(small), h, w, 2)
        found.append(F.grid_sample(small, many, mode="bilinear", padding_mode="border", align_corners=False))
    array = np.ascontiguousarray(np.moveaxis(torch.cat(found).numpy(), 0, own.axis + 1))
    grid = grid_of(image).with_size(array.shape[1:])
    return Image(array, grid.affine, "", image.spacing_known)
