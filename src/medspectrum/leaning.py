"""What a predictor leans on that is no disease: its score with a shortcut blanked, what its encoder tells.

A shortcut in the data need not be taken. Here the corners' marks or the frame are blanked in pictures that
the predictor has not seen, in all of them at the same place, so that no blank says which pictures had one.
What its AUC then loses, on the same resampled patients, is what it leaned on (Zech et al., PLOS Medicine
2018). And whether an encoder's frozen features tell the centre or the scanner of unseen patients says whether
a head on them could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from medspectrum import compared
from medspectrum.appearance import evenly
from medspectrum.case import Case, LazyImage
from medspectrum.image import Image
from medspectrum.leakage.shortcuts import FEWEST, FOLDS, MADE_BY, MOST_CASES, judged
from medspectrum.methods._features import mean_features
from medspectrum.metrics.classification import auc
from medspectrum.store import digest
from medspectrum.traces import CORNER, GROUPS, NAMES, sharp

BLANKED = {"marks": "writing or markers in the corners", "border": "the frame around the picture"}
LOOKED_AT = 200
HELD = 0.95
"""Share of the strokes, and of the frames, that what is blanked has to hold."""
TELLING = 0.1
"""Distance of a corner's AUC from chance, from which its marks are blanked."""
PENALTY = 1.0
"""Of the ridge on scaled features, per case."""

Box = tuple[float, float, float, float]
"""Top, bottom, left and right as shares of the picture."""


def blank(image: Image, boxes: Sequence[Box]) -> Image:
    """The image with every box filled with its median intensity."""
    made = image.array.copy()
    height, width = made.shape[2:]
    middle = np.median(made, axis=(1, 2, 3)).astype(made.dtype)[:, None, None, None]
    for top, bottom, left, right in boxes:
        rows = slice(int(np.floor(top * height)), int(np.ceil(bottom * height)))
        columns = slice(int(np.floor(left * width)), int(np.ceil(right * width)))
        made[:, :, rows, columns] = middle
    return replace(image, array=made)


def blanked(cases: Sequence[Case], boxes: Sequence[Box]) -> list[Case]:
    """The cases whose images are blanked there when they are read."""

    def of(lazy: LazyImage) -> LazyImage:
        return LazyImage(
            f"{lazy.source}#blanked",
            partial(_read, lazy, boxes),
            partial(digest, "blanked", lazy.key(), [list(b) for b in boxes]),
        )

    return [replace(c, images={role: of(lazy) for role, lazy in c.images.items()}) for c in cases]


def _read(lazy: LazyImage, boxes: Sequence[Box]) -> Image:
    return blank(lazy.load(), boxes)


def border_boxes(found: np.ndarray) -> list[Box]:
    """Where frames are: as wide as nearly all of them. found: (n, len(NAMES)) of ``traces``."""
    widths = []
    for side in ("top", "bottom", "left", "right"):
        own = found[:, NAMES.index(side)]
        widths.append(float(np.quantile(own[own > 0], HELD)) if (own > 0).any() else 0.0)
    top, bottom, left, right = widths
    boxes = (
        (0.0, top, 0.0, 1.0),
        (1 - bottom, 1.0, 0.0, 1.0),
        (0.0, 1.0, 0.0, left),
        (0.0, 1.0, 1 - right, 1.0),
    )
    return [box for box, width in zip(boxes, widths, strict=True) if width > 0]


def mark_boxes(cases: Sequence[Case], labels: Sequence[str], found: np.ndarray) -> list[Box]:
    """In each corner whose strokes tell the class, the box that holds nearly all of them, and a little more.

    found: (n, len(NAMES)) of ``traces`` of the cases; at most 200 of those with strokes are looked at.
    """
    boxes = []
    for corner, name in enumerate(GROUPS["marks"]):
        amount = found[:, NAMES.index(name)]
        if not _tells(amount, labels):
            continue
        marked = [c for c, share in zip(cases, amount, strict=True) if share > 0]
        places = np.concatenate([_strokes(c, corner) for c in evenly(marked, LOOKED_AT)])
        low, high = np.quantile(places, [(1 - HELD) / 2, (1 + HELD) / 2], axis=0)
        spare = 0.15 * (high - low) + 0.02
        (top, left), (bottom, right) = np.clip(low - spare, 0, 1), np.clip(high + spare, 0, 1)
        boxes.append((float(top), float(bottom), float(left), float(right)))
    return boxes


def _tells(amount: np.ndarray, labels: Sequence[str]) -> bool:
    """Whether one class has more of it than the others, or less."""
    names, truth = np.unique(np.asarray(labels), return_inverse=True)
    columns = np.stack([-amount, amount], axis=1)
    return any(abs(float(auc(columns, (truth == k).astype(int))) - 0.5) > TELLING for k in range(len(names)))


def _strokes(case: Case, corner: int) -> np.ndarray:
    """(n, 2) places, as shares of the picture, of what is drawn sharply in a corner."""
    made = []
    for lazy in case.images.values():
        array = lazy.load().array
        grey = array[:, array.shape[1] // 2].astype(np.float32).mean(axis=0)
        strokes = sharp((grey - grey.min()) / max(float(np.ptp(grey)), 1e-6))
        at = (np.argwhere(strokes) + 0.5) / grey.shape
        near_y = at[:, 0] < CORNER if corner < 2 else at[:, 0] > 1 - CORNER
        near_x = at[:, 1] < CORNER if corner % 2 == 0 else at[:, 1] > 1 - CORNER
        made.append(at[near_y & near_x])
    return np.concatenate(made)


def without_shortcuts(
    predict: Callable[[Sequence[Case]], np.ndarray],
    truth: np.ndarray,
    cases: Sequence[Case],
    boxes: dict[str, list[Box]],
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A row for each shortcut: ``what``, AUC ``before`` and ``after``, ``fall`` with its interval."""
    rows = []
    answers = predict(cases)
    for name, own in boxes.items():
        if not own:
            continue
        after = predict(blanked(cases, own))
        found = compared.fallen(
            lambda w: auc(answers, truth, w), lambda w, a=after: auc(a, truth, w), cases, seed=seed
        )
        drop = found["drop"]
        rows.append(
            {
                "what": BLANKED[name],
                "name": name,
                "cases": len(cases),
                "before": float(auc(answers, truth)),
                "after": found["score"]["value"],
                "fall": drop["value"],
                "low": drop["low"],
                "high": drop["high"],
                "share": float(sum((b - t) * (r - le) for t, b, le, r in own)),
            }
        )
    return rows


def told_by_features(model: Any, cases: Sequence[Case], *, seed: int = 0) -> list[dict[str, Any]]:
    """How well the centre, and columns that say how a picture was made, are told from frozen features.

    A ridge answers for patients that it has not seen; beside its AUC stands what chance gives. Values of
    fewer than five patients are not asked about; rows as of the other probes, with the most telling first.
    """
    asked = {"centre": [c.centre for c in cases]}
    for column in sorted({key for c in cases for key in c.record if MADE_BY.search(key)}):
        asked[f"column {column}"] = [_word(c.record.get(column)) for c in cases]
    rows = []
    for name, values in asked.items():
        people: dict[str, set[str]] = {}
        for case, value in zip(cases, values, strict=True):
            if value:
                people.setdefault(value, set()).add(case.patient)
        kept = {v for v, own in people.items() if len(own) >= FEWEST}
        places = np.array([i for i, v in enumerate(values) if v in kept], int)
        if len(kept) < 2 or len(kept) > 20:
            continue
        places = np.sort(np.random.default_rng(seed).permutation(places)[:MOST_CASES])
        own = [cases[i] for i in places]
        words = [str(values[i]) for i in places]
        patients = [c.patient for c in own]
        truth = np.unique(words, return_inverse=True)[1]
        answers = _answers(mean_features(model, own), truth, patients, seed)
        if answers is not None:
            tells = ", ".join(f"{v} {n}" for v, n in Counter(words).most_common(4))
            rows.append(judged(name, answers, truth, patients, None, tells, seed).as_row())
    return sorted(rows, key=lambda row: -(row["auc"]["value"] or 0))


def _word(value: Any) -> str | None:
    word = "" if value is None else str(value).strip()
    return word or None


def _answers(rows: np.ndarray, truth: np.ndarray, patients: Sequence[str], seed: int) -> np.ndarray | None:
    """(n, k) probabilities of each case from a ridge that has not seen its patient, if any can be."""
    from scipy.special import softmax
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    k = int(truth.max()) + 1
    out = np.full((len(truth), k), 1.0 / k)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for learned, asked in folds.split(rows, truth, np.asarray(patients)):
        known = np.unique(truth[learned])
        if len(known) < 2:
            return None
        mean, spread = rows[learned].mean(axis=0), np.maximum(rows[learned].std(axis=0), 1e-6)
        head = RidgeClassifier(alpha=PENALTY * len(learned), class_weight="balanced")
        head.fit((rows[learned] - mean) / spread, truth[learned])
        scores = head.decision_function((rows[asked] - mean) / spread)
        scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        out[asked[:, None], known] = softmax(scores, axis=1)
    return out
