"""One vector for each case, whatever images it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medspectrum.case import Case, Model
from medspectrum.errors import UserError


def case_features(model: Model, cases: Sequence[Case], *, width: int | None = None) -> np.ndarray:
    """(n, d) float32 pooled features of the cases.

    Where all cases have the same roles their images' features stand side by side in the roles' order;
    where they differ, a case is the mean of its images. ``width`` asks for the d that a predictor was
    trained on. Raises UserError for a case without images, for features that are not finite, and for
    cases with other images than those trained on.
    """
    if not len(cases):
        return np.empty((0, width or model.card.width), dtype=np.float32)
    roles = [tuple(sorted(case.images)) for case in cases]
    for case, has in zip(cases, roles, strict=True):
        if not has:
            raise UserError(f"case {case.id} has no image; leave it out.")
    images = [case.images[role] for case, has in zip(cases, roles, strict=True) for role in has]
    found = np.asarray(model.embed(images, "pooled").pooled, dtype=np.float32)
    alike = len(set(roles)) == 1 and width in (None, found.shape[1] * len(roles[0]))
    if not alike and width not in (None, found.shape[1]):
        raise UserError(
            f"case {cases[0].id} has the images {', '.join(roles[0])}, and the predictor was trained on "
            f"cases with {width / found.shape[1]:g} images each; give it cases with those images."
        )
    if alike:
        rows = found.reshape(len(cases), -1)
    else:
        start = np.cumsum([0] + [len(has) for has in roles[:-1]])
        number = np.array([[len(has)] for has in roles], dtype=np.float32)
        rows = np.add.reduceat(found, start, axis=0) / number
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        first = cases[int(bad[0])]
        source = first.images[sorted(first.images)[0]].source
        raise UserError(
            f"{source}: {model.card.name} gives features that are not finite for case {first.id}; "
            "check the image's values or leave the case out."
        )
    return rows


def mean_features(model: Model, cases: Sequence[Case]) -> np.ndarray:
    """(n, d) float64: of each case the mean of its images' pooled features, whatever their roles."""
    images, owners = [], []
    for place, case in enumerate(cases):
        for role in sorted(case.images):
            images.append(case.images[role])
            owners.append(place)
    found = np.asarray(model.embed(images, "pooled").pooled, np.float64)
    rows = np.zeros((len(cases), found.shape[1]))
    np.add.at(rows, owners, found)
    return rows / np.bincount(owners, minlength=len(cases))[:, None]
