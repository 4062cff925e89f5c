"""What a predictor answered on the test cases: confusion, reliability, and cases worth looking at."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medspectrum.errors import UserError
from medspectrum.report import words
from medspectrum.report.figure import canvas, colour, svg

MATRIX_LIMIT = 14
NAMED_LIMIT = 40
CONFUSIONS_SHOWN = 15


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one trial, cases without a true class dropped.

    case, patient, centre: (n,) str. truth: (n,) index into classes. probabilities: (n, k).
    """

    case: np.ndarray
    patient: np.ndarray
    centre: np.ndarray
    truth: np.ndarray
    probabilities: np.ndarray

    @property
    def answer(self) -> np.ndarray:
        """(n,) index of the most probable class."""
        return self.probabilities.argmax(axis=1)

    @property
    def certainty(self) -> np.ndarray:
        """(n,) probability of the most probable class."""
        return self.probabilities.max(axis=1)


def read_answers(given: Mapping[str, np.ndarray] | None, classes: Sequence[str]) -> Answers | None:
    """The arrays of a predictions entry, or None where there is nothing to show.

    Raises ValueError where the arrays do not fit one another or the classes.
    """
    if not given or len(given["truth"]) == 0 or not classes:
        return None
    truth = np.asarray(given["truth"]).astype(int)
    probabilities = np.asarray(given["probabilities"], dtype=float)
    if probabilities.shape != (len(truth), len(classes)):
        raise ValueError(
            f"probabilities are {probabilities.shape}; "
            f"{len(truth)} cases of {len(classes)} classes were expected"
        )
    blank = np.full(len(truth), "", dtype=object)
    case, patient, centre = (
        np.asarray(given[key], dtype=object) if given.get(key) is not None else blank
        for key in ("case", "patient", "centre")
    )
    known = (truth >= 0) & (truth < len(classes)) & np.isfinite(probabilities).all(axis=1)
    if not known.any():
        return None
    return Answers(*(part[known] for part in (case, patient, centre, truth, probabilities)))


def confusion(answers: Answers, classes: Sequence[str]) -> np.ndarray:
    """(k, k) counts: rows true, columns answered."""
    k = len(classes)
    return np.bincount(answers.truth * k + answers.answer, minlength=k * k).reshape(k, k)


def confusion_table(answers: Answers, classes: Sequence[str]) -> dict[str, Any]:
    """The matrix for the page; beyond ``MATRIX_LIMIT`` classes a picture of it and the commonest errors."""
    counts = confusion(answers, classes)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    large = len(classes) > MATRIX_LIMIT
    rows = [
        {
            "name": name,
            "total": int(totals[i]),
            "cells": [
                {"count": int(counts[i, j]), "share": float(shares[i, j]), "right": i == j}
                for j in range(len(classes))
            ],
        }
        for i, name in enumerate(classes)
    ]
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_SHOWN]
    errors = [
        {"true": classes[i], "answer": classes[j], "count": int(wrong[i, j]), "share": float(shares[i, j])}
        for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[i, j]
    ]
    return {
        "classes": list(classes),
        "rows": [] if large else rows,
        "picture": _confusion_picture(shares, classes) if large else None,
        "errors": errors,
    }


def _confusion_picture(shares: np.ndarray, classes: Sequence[str]) -> str:
    """Dots of an area by the share of the row; it stays readable for a hundred classes."""
    k = len(classes)
    rows, columns = np.nonzero(shares)
    with canvas(560, 560) as figure:
        axes = figure.subplots()
        named = k <= NAMED_LIMIT
        if named:
            figure.subplots_adjust(left=0.29, bottom=0.29, right=0.98, top=0.98)
            names = [_short(name, 20) for name in classes]
            axes.set_xticks(range(k), names, rotation=90, fontsize=10)
            axes.set_yticks(range(k), names, fontsize=10)
        side = (380 if named else 470) / k
        for right, tint in ((True, "accent"), (False, "series-2")):
            chosen = (rows == columns) == right
            axes.scatter(
                columns[chosen],
                rows[chosen],
                s=np.maximum(shares[rows[chosen], columns[chosen]], 0.02) * (0.8 * side) ** 2,
                color=colour(tint),
                linewidths=0,
                alpha=0.85,
            )
        axes.set_xlim(-0.7, k - 0.3)
        axes.set_ylim(k - 0.3, -0.7)
        axes.set_aspect("equal")
        axes.set_xlabel("answered class" if named else "answered class (number in the table above)")
        axes.set_ylabel("true class")
        return svg(figure, name=f"confusion-{k}", label=f"Confusion of {k} classes")


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases of like certainty: mean stated probability, observed share with its interval, and number."""

    stated: float
    observed: float
    low: float
    high: float
    n: int


def reliability(answers: Answers, *, most: int = 10, least_cases: int = 8) -> list[Bin]:
    """Bins of equal size by stated probability, each with a 95 % Wilson interval.

    Two classes: the probability of the second class against its share. More: the certainty of the
    answer against the share of right answers.
    """
    if answers.probabilities.shape[1] == 2:
        stated, hit = answers.probabilities[:, 1], answers.truth == 1
    else:
        stated, hit = answers.certainty, answers.answer == answers.truth
    number = int(np.clip(len(stated) // least_cases, 1, most))
    order = np.argsort(stated, kind="stable")
    bins = []
    for part in np.array_split(order, number):
        low, high = wilson(int(hit[part].sum()), len(part))
        bins.append(Bin(float(stated[part].mean()), float(hit[part].mean()), low, high, len(part)))
    return bins


def wilson(hits: int, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), 95 % by default."""
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def reliability_svg(answers: Answers, classes: Sequence[str], *, name: str) -> str:
    """Stated probability against observed share, with the number of cases below."""
    bins = reliability(answers)
    binary = len(classes) == 2
    titles = {}
    with canvas(420, 400) as figure:
        axes, below = figure.subplots(2, 1, height_ratios=(4.2, 1), sharex=True)
        axes.plot([0, 1], [0, 1], color=colour("faint"), linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([b.stated for b in bins], [b.observed for b in bins], color=colour("accent"), linewidth=1.8)
        for index, part in enumerate(bins):
            axes.plot(
                [part.stated] * 2, [part.low, part.high], color=colour("accent"), linewidth=1.1, alpha=0.6
            )
            axes.plot(
                [part.stated], [part.observed], "o", color=colour("accent"), markersize=6.5, gid=f"bin{index}"
            )
            titles[f"bin{index}"] = (
                f"stated {part.stated:.2f}, observed {part.observed:.2f} "
                f"({part.low:.2f} to {part.high:.2f}), {part.n} cases"
            )
        axes.set_ylabel(f"observed share of {_short(classes[1])}" if binary else "share of right answers")
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(-0.02, 1.02)
        stated = answers.probabilities[:, 1] if binary else answers.certainty
        below.hist(stated, bins=np.linspace(0, 1, 21), color=colour("accent"), alpha=0.5)
        below.set_ylabel("cases")
        below.yaxis.get_major_locator().set_params(nbins=2, integer=True)
        below.set_xlabel(
            f"stated probability of {_short(classes[1])}" if binary else "stated probability of the answer"
        )
        return svg(
            figure, name=name, label="Reliability: stated probability against observed share", titles=titles
        )


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def examples(
    answers: Answers, classes: Sequence[str], thumbnails: Mapping[str, bytes], *, each: int = 6
) -> list[dict[str, Any]]:
    """Three rows of cases: surest right, surest wrong, least sure. Cases with a picture come first.

    A picture is asked for only where it is shown, since it may have to be read and scaled.
    """
    pictured = frozenset(thumbnails)
    right = answers.answer == answers.truth
    order = np.argsort(-answers.certainty, kind="stable")
    rows = (
        ("Surest and right", "what the predictor finds easy", order[right[order]]),
        (
            "Surest and wrong",
            "look at these first: the label or the predictor is mistaken",
            order[~right[order]],
        ),
        ("Least sure", "where a second reader helps most", order[::-1]),
    )
    return [
        {
            "title": title,
            "about": about,
            "cases": [
                _example(answers, classes, thumbnails, int(i))
                for i in _pictured(answers, chosen, pictured)[:each]
            ],
        }
        for title, about, chosen in rows
    ]


def _pictured(answers: Answers, chosen: np.ndarray, pictured: frozenset[str]) -> list[int]:
    """Of the first thirty, those with a picture before those without."""
    head = [int(i) for i in chosen[:30]]
    return sorted(head, key=lambda i: str(answers.case[i]) not in pictured)


def _example(
    answers: Answers, classes: Sequence[str], thumbnails: Mapping[str, bytes], index: int
) -> dict[str, Any]:
    case = str(answers.case[index])
    try:
        picture = thumbnails.get(case)
    except UserError:
        picture = None
    return {
        "case": case,
        "centre": str(answers.centre[index] or ""),
        "truth": classes[answers.truth[index]],
        "answer": classes[answers.answer[index]],
        "right": bool(answers.truth[index] == answers.answer[index]),
        "certainty": words.percent(float(answers.certainty[index])),
        "picture": picture_url(picture) if picture else None,
    }


def picture_url(png: bytes) -> str:
    """A PNG as a data URL. Raises ValueError for anything else, so that no other kind enters a page."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("a thumbnail must be a PNG file's bytes")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
