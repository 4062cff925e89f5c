"""Soft labels against majorities on real readers: how malignant lung nodules of LIDC-IDRI look.

    python benchmarks/readers.py DATA   (DATA holds lidc_ratings/lidc_annotations.csv.gz)

Up to four radiologists graded each nodule from 1 to 5. Annotations of a scan are of one nodule where their
boxes overlap by a fifth (IoU in x, y, z), linked one to the next; groups of more than four are left out, and
so are nodules of one reader. Features are sizes, spacing and contrast alone, means over readers: there are
no pixels. Half of the patients are learned from, the others judged, in 20 splits. ``hard`` learns from
majorities, of tied grades from the lowest; ``untied`` from majorities without tied nodules; ``soft`` from the
shares of readers. Differences are told with
their spread over splits (2.5 and 97.5 %), which share patients: no interval for new ones. Log loss and Brier
score are of a reader's grade in the mix as it is; heads with ``prevalence="balanced"`` speak of equally
common grades instead, so that these two are not what they aim at. ``off_readers``: how far the stated
probability of the answer lies from the share of readers who gave it, over ten bins.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import polars

from measurement import save
from medspectrum import registry
from medspectrum.case import Case, ClassTarget, Features, LazyImage, majority
from medspectrum.tasks.classify import Classify

SPLITS = 20
LEAST_OVERLAP = 0.2
KINDS = ("hard", "untied", "soft")
HEADS = {
    "linear_probe": {},
    "linear_probe, plain cross-entropy": {"weighting": "none", "prevalence": "labelled"},
    "ridge": {},
}


class Sizes:
    """A model whose features are what is known of a nodule."""

    key = "lidc-extents"

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def embed(self, images: list[LazyImage], level: str = "pooled") -> Features:
        return Features(np.array([self.rows[int(image.source)] for image in images], dtype=np.float32))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two boxes: lows, then highs."""
    sides = np.minimum(one[3:], other[3:]) - np.maximum(one[:3], other[:3])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / (float(np.prod(one[3:] - one[:3]) + np.prod(other[3:] - other[:3])) - both)


def groups(boxes: np.ndarray) -> list[list[int]]:
    """Annotations of a scan by nodule: those that overlap, linked one to the next."""
    of = list(range(len(boxes)))
    for i in range(len(boxes)):
        for j in range(i):
            if of[i] != of[j] and overlap(boxes[i], boxes[j]) >= LEAST_OVERLAP:
                of = [of[j] if place == of[i] else place for place in of]
    return [[i for i, place in enumerate(of) if place == name] for name in dict.fromkeys(of)]


def nodules(path: Path) -> tuple[Sizes, list[Case], int]:
    """Model, cases of two readers or more, and how many groups of more than four were left out."""
    table = polars.read_csv(path)
    features, cases, crowded = [], [], 0
    for (_scan,), rows in table.group_by("scan_id", maintain_order=True):
        spacing, thick = rows["pixel_spacing"].to_numpy(), rows["slice_thickness"].to_numpy()
        low = np.stack([rows["i_min"] * spacing, rows["j_min"] * spacing, rows["z_min"] - thick / 2], axis=1)
        high = np.stack(
            [(rows["i_max"] + 1) * spacing, (rows["j_max"] + 1) * spacing, rows["z_max"] + thick / 2], axis=1
        )
        for members in groups(np.concatenate([low, high], axis=1)):
            crowded += len(members) > 4
            if not 2 <= len(members) <= 4:
                continue
            size = np.log((high - low)[members]).mean(axis=0)
            contrast = float(str(rows["contrast_used"][members[0]]).lower() in ("1", "true"))
            sides = np.sort(size[:2])
            features.append([*sides, size[2], size.sum(), thick[members[0]], spacing[members[0]], contrast])
            told = [str(rows["malignancy"][i]) for i in members]
            name = str(len(cases))
            image = LazyImage(name, functools.partial(int, name), functools.partial(str, name))
            given = tuple((f"reader {n + 1}", word) for n, word in enumerate(told))
            target = ClassTarget(majority(told)[0], given)
            cases.append(Case(name, rows["patient_id"][members[0]], {"image": image}, target))
    return Sizes(np.array(features)), cases, crowded


def tied(case: Case) -> bool:
    """Whether as many readers gave one grade as another."""
    return majority(word for _, word in case.target.readers)[1]


def judged(found: np.ndarray, cases: list[Case], task: Classify) -> dict[str, float]:
    """Log loss and Brier score of what a reader said, and how far certainty is off readers' consent."""
    shares = np.array([[c.target.shares().get(word, 0.0) for word in task.classes] for c in cases])
    sure, answer = found.max(axis=1), found.argmax(axis=1)
    agreed = shares[np.arange(len(cases)), answer]
    bins = np.minimum((sure * 10).astype(int), 9)
    off = sum(abs((sure - agreed)[bins == b].sum()) for b in range(10)) / len(cases)
    brier = 1 - 2 * found + np.square(found).sum(axis=1, keepdims=True)
    return {
        "log_loss": float(-(shares * np.log(np.maximum(found, 1e-12))).sum(axis=1).mean()),
        "brier": float((shares * brier).sum(axis=1).mean()),
        "off_readers": float(off),
    }


def main() -> None:
    model, cases, crowded = nodules(Path(sys.argv[1]) / "lidc_ratings" / "lidc_annotations.csv.gz")
    people = sorted({c.patient for c in cases})
    task = Classify.of(cases)
    kept: dict[str, dict[str, list[dict[str, float]]]] = {n: {k: [] for k in KINDS} for n in HEADS}
    for split in range(SPLITS):
        drawn = set(np.random.default_rng(split).permutation(people)[: len(people) // 2].tolist())
        learned = [c for c in cases if c.patient in drawn]
        new = [c for c in cases if c.patient not in drawn]
        for name, settings in HEADS.items():
            fit = registry.find("method", name.partition(",")[0]).thing
            for kind in KINDS:
                given = [c for c in learned if kind != "untied" or not tied(c)]
                found = fit(model, given, task, seed=split, soft=kind == "soft", **settings).predict(new)
                row = judged(found, new, task)
                beside = task.in_detail(found, new, resamples=0)["readers"]["weighted_kappa"]
                row |= {f"kappa_{who}": beside[who]["value"] for who in ("model", "readers")}
                kept[name][kind].append(row)
    result = {
        "nodules": len(cases),
        "patients": len(people),
        "crowded_left_out": crowded,
        "ties": sum(map(tied, cases)),
        "unanimous": sum(len(c.target.shares()) == 1 for c in cases),
        "splits": SPLITS,
        "heads": {},
    }
    for name, both in kept.items():
        result["heads"][name] = {}
        for score in both["hard"][0]:
            told = {kind: np.array([row[score] for row in both[kind]]) for kind in KINDS}
            row = {kind: round(float(values.mean()), 4) for kind, values in told.items()}
            for other in ("hard", "untied"):
                gap = told["soft"] - told[other]
                ends = (gap.mean(), *np.quantile(gap, [0.025, 0.975]))
                row[f"soft_less_{other}"] = [round(float(value), 4) for value in ends]
            result["heads"][name][score] = row
    save("readers", result)


if __name__ == "__main__":
    main()
