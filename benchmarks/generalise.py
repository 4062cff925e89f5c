"""How predictors carry over: Hannover left out, another lab's stain, and whether promised coverage is kept.

    python benchmarks/generalise.py [DATA] [--only covid,stain,pixels...] [--named PART] [--cache FOLDER]

DATA holds covid_cxr, wbc_seg, malaria_cells and pneumoniamnist (MEDSPECTRUM_DATA where not given). Every
setting is the default of its verb or method; none was chosen on these data. Parts that the result file holds
are not done again, and within a part what was computed is kept in the cache.

* covid: X-rays of 146 patients, 55 of them of Hannover. All but two of Hannover's stated findings are
  COVID-19, so the finding itself cannot be judged there; what can, is the projection (PA or AP), the
  patient's sex, and whether the patient was in intensive care, where stated. Gap: the same Hannover cases,
  other Hannover patients learned from (five folds) or none.
* stain: types of 300 white blood cells (those with ten cases or more), and their nucleus and cytoplasm; the
  shift ``stain`` at every severity; remedies see the test cells at severity 5, without labels.
* pixels: mean error of grey values under shifts of colour before and after ``harmonise``, whose settings were
  set on wbc_seg and not on bccd: 30 pictures moved, 100 others to learn from.
* coverage: 90 % promised; one training set, then 100 times the other patients dealt to calibration and test.
* mapie: the same splits by MAPIE, in an environment of its own (``pip install "mapie>=1.0"``).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from measurement import RESULTS, save

ENCODERS = ("efficientnet-lite0", "dinov2-s-derived")
TARGETS = {"view": lambda v: v if v == "PA" else "AP", "sex": str, "in_icu": str}
SPLITS = 100
ALPHA = 0.1


def main() -> None:
    here = Path(os.environ.get("MEDSPECTRUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("data", nargs="?", type=Path, default=here)
    given.add_argument("--only", default="stain,pixels,coverage,covid")
    given.add_argument("--named", default="", help="only parts whose name holds this")
    given.add_argument("--cache", type=Path, default=Path("generalise_cache"))
    asked = given.parse_args()
    asked.cache.mkdir(parents=True, exist_ok=True)
    data, cache = asked.data.resolve(), asked.cache.resolve()
    parts = [pair for part in asked.only.split(",") for pair in PARTS[part](data, cache)]
    for name, measure in sorted(
        parts, key=lambda pair: (ENCODERS[-1] in pair[0], "covid" not in pair[0], "malaria" in pair[0])
    ):  # the quick encoder first
        done = kept()
        if asked.named in name and name not in done:
            save("generalise", {**done, name: measure()})


def kept() -> dict[str, Any]:
    """What the result file holds."""
    path = RESULTS / "generalise.json"
    return json.loads(path.read_text())["result"] if path.is_file() else {}


def table(path: Path, rows: list[list[Any]], columns: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def covid(data: Path, cache: Path) -> Any:
    """(name, function) for each target and encoder."""
    with (data / "covid_cxr" / "metadata.csv").open() as opened:
        rows = list(csv.DictReader(opened))

    def one(target: str, encoder: str) -> dict[str, Any]:
        made = [
            [data / "covid_cxr" / "images" / r["image"], TARGETS[target](r[target]), r["patientid"],
             "Hannover" if r["hannover"] == "True" else ""]  # of the others no hospital has enough
            for r in rows
            if target == "view" or r[target] in ("M", "F", "Y", "N")
        ]  # fmt: skip
        name = f"covid_{target}_{encoder}"
        path = table(cache / f"{name}.csv", made, ("image", "label", "patient", "centre"))
        found = run(path, encoder, "ridge", cache / name, cache, leave_centre_out=True, shifts="none")
        hannover = next(r for r in found["left_out_centres"] if r["centre"] == "Hannover")
        return {
            "classes": dict(Counter(f"{m[3]} {m[1]}" for m in made)),
            **hannover,
            "seconds": found["seconds"],
        }

    for encoder in ENCODERS:
        for target in TARGETS:
            yield f"covid {target} {encoder}", lambda t=target, e=encoder: one(t, e)


def run(data: Path, encoder: str, method: str, out: Path, cache: Path, **settings: Any) -> dict[str, Any]:
    """Explore with one method and encoder, then ``generalise``."""
    import medspectrum

    common = {"cache": cache / "cache", "quiet": True}
    task = settings.pop("task", "classify")
    medspectrum.explore(
        data,
        out=out,
        models=encoder,
        methods=method,
        budgets="full",
        draws=1,
        budget_minutes=0,
        task=task,
        **common,
    )
    return medspectrum.generalise(out / "predictor", data, out=out / "carries_over", **common, **settings)


def stain(data: Path, cache: Path) -> Any:
    """(name, function) for types and for outlines."""
    folder = data / "wbc_seg" / "jiangxi_tecom"

    def types(encoder: str, severities: str, remedies: str) -> dict[str, Any]:
        with (data / "wbc_seg" / "labels.csv").open() as opened:
            rows = [r for r in csv.DictReader(opened) if r["site"] == "jiangxi_tecom"]
        common = Counter(r["wbc_class"] for r in rows)
        names = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}
        made = [
            [folder / f"{int(r['id']):03d}_image.png", names[r["wbc_class"]]]
            for r in rows
            if common[r["wbc_class"]] >= 10
        ]
        path = table(cache / f"wbc_{encoder}.csv", made, ("image", "label"))
        found = run(
            path,
            encoder,
            "ridge",
            cache / f"wbc_{encoder}",
            cache,
            shifts="stain",
            severities=severities,
            remedies=remedies,
        )
        return shown(found)

    def outlines(encoder: str) -> dict[str, Any]:
        found = run(
            folder, encoder, "dense_probe", cache / f"wbc_outlines_{encoder}", cache, task="segment",
            shifts="stain", severities="5", shift_cases=60,
        )  # fmt: skip
        return shown(found)

    for encoder in ENCODERS:
        yield f"wbc types {encoder}, severity 5", lambda e=encoder: types(e, "5", "")
        yield f"wbc types {encoder}, severity 1 to 4", lambda e=encoder: types(e, "1,2,3,4", "none")
    yield "wbc outlines efficientnet-lite0", lambda: outlines("efficientnet-lite0")


def pixels(data: Path, _: Path) -> Any:
    """(name, function) for each set of pictures in colour."""
    from medspectrum import appearance, formats, shifts
    from medspectrum.case import Case

    def error(cases: list[Case], moved: list[Case], change: Any) -> float:
        pairs = [
            (a.images["image"].load(), b.images["image"].load()) for a, b in zip(cases, moved, strict=True)
        ]
        return float(np.mean([np.abs(change(b).array.astype(float) - a.array).mean() for a, b in pairs]))

    def one(paths: list[Path]) -> dict[str, Any]:
        order = np.random.default_rng(0).permutation(len(paths))
        made = [Case(str(i), str(i), {"image": formats.lazy(paths[i])}) for i in order[:130]]
        cases, learned = made[:30], appearance.intensities([c.images["image"] for c in made[30:]])
        rows = {}
        for shift, severity in [("stain", s) for s in shifts.SEVERITIES] + [
            ("white_balance", s) for s in (2, 4)
        ]:
            moved = shifts.shifted(cases, shift, severity)
            own = appearance.intensities([c.images["image"] for c in moved])
            change = appearance.change_between(own, learned)
            rows[f"{shift} {severity}"] = {
                "before": error(cases, moved, lambda image: image),
                "after": error(cases, moved, change),
            }
        return rows

    sets = {
        "wbc_seg": sorted((data / "wbc_seg" / "jiangxi_tecom").glob("*_image.png")),
        "bccd": sorted((data / "bccd" / "JPEGImages").glob("*.jpg")),
    }
    for name, paths in sets.items():
        yield f"pixels {name}", lambda p=paths: one(p)


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a page."""
    keys = ("shift", "severity", "score", "drop", "noticed")
    return {
        "task": found["task"]["name"],
        "score": found["scores"][found["task"]["primary"]],
        "primary": found["task"]["primary"],
        "cases": found["shift_cases"],
        "shifts": [{k: r[k] for k in keys} for r in found["shifts"]],
        "remedies": found["remedies"],
        "seconds": found["seconds"],
    }


def answers_of(path: Path, size: int, cache: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, classes and patients of what ridge on frozen features has not learned from (60 %)."""
    from medspectrum import registry, reliability
    from medspectrum.datasets import load
    from medspectrum.models import resolve
    from medspectrum.tasks.classify import Classify

    cases = [c for c in load(path, cache=cache / "cache").cases if c.target is not None]
    task = Classify.of(cases)
    encoder = resolve("efficientnet-lite0", size=size, cache=cache / "cache")
    people = sorted({c.patient for c in cases})
    order = np.random.default_rng(0).permutation(len(people))
    learned = {people[i] for i in order[: int(0.4 * len(people))]}
    train = [c for c in cases if c.patient in learned]
    rest = [c for c in cases if c.patient not in learned]
    predictor = registry.find("method", "ridge").thing(encoder, train, task)
    return predictor.predict(rest), reliability.truth_of(task, rest), np.array([c.patient for c in rest])


def ours(
    answers: np.ndarray, truth: np.ndarray, patients: np.ndarray, test: np.ndarray, kind: str, split: int
) -> Any:
    """(n, k) sets of the test cases, calibrated on the others."""
    from medspectrum.metrics import conformal

    rest = ~test
    limit = conformal.calibrated(
        answers[rest], truth[rest], patients[rest].tolist(), kind, alpha=ALPHA, seed=split
    )
    return conformal.sets(answers[test], limit, kind, seed=split + 10_000)


def mapie(
    answers: np.ndarray, truth: np.ndarray, patients: np.ndarray, test: np.ndarray, kind: str, split: int
) -> Any:
    """The same by MAPIE, for which cases are what is exchangeable. pip install "mapie>=1.0"."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):
        """Probabilities that are there already."""

        def __init__(self) -> None:
            self.classes_, self.is_fitted_ = np.arange(answers.shape[1]), True

        def fit(self, x: Any, y: Any) -> Given:
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(axis=1)

    judge = SplitConformalClassifier(
        Given(), confidence_level=1 - ALPHA, conformity_score=kind, prefit=True, random_state=split
    )
    judge.conformalize(answers[~test], truth[~test])
    return judge.predict_set(answers[test])[1][:, :, 0]


def judged(path: Path, size: int, cache: Path, sets_of: Any) -> dict[str, Any]:
    """Coverage over splits by patient; of patients (each counts once) and of cases."""
    import time

    from medspectrum.metrics import conformal

    answers, truth, patients = answers_of(path, size, cache)
    others = sorted(set(patients))
    told: dict[str, Any] = {
        "cases": len(truth),
        "patients": len(others),
        "accuracy": float((answers.argmax(axis=1) == truth).mean()),
        "splits": SPLITS,
        "promised": 1 - ALPHA,
    }
    for kind in conformal.SCORES:
        rows, begun = [], time.process_time()
        for split in range(SPLITS):
            dealt = np.random.default_rng([1, split]).permutation(len(others))
            test = ~np.isin(patients, [others[i] for i in dealt[: len(others) // 2]])
            inside = sets_of(answers, truth, patients, test, kind, split)
            held = inside[np.arange(test.sum()), truth[test]].astype(float)
            shares, count = conformal.patient_shares(patients[test].tolist())
            size = inside.sum(axis=1)
            rows.append([held @ shares / count, held.mean(), size.mean(), (size != 1).mean()])
        told[kind] = {**summary(np.array(rows)), "cpu_seconds": time.process_time() - begun}
    return told


def coverage(data: Path, cache: Path, sets_of: Any = ours, name: str = "coverage") -> Any:
    """(name, function) for each data set."""
    sets = {
        "malaria": (data / "malaria_cells", 192),
        "pneumoniamnist": (data / "pneumoniamnist", 112),
        "wbc types": (cache / "wbc_efficientnet-lite0.csv", 112),
    }
    for known, (path, size) in sets.items():
        yield f"{name} {known}", lambda p=path, s=size: judged(p, s, cache, sets_of)


def beside(data: Path, cache: Path) -> Any:
    """The same sets by MAPIE."""
    return coverage(data, cache, mapie, "coverage by MAPIE of")


def summary(found: np.ndarray) -> dict[str, float]:
    """Means over splits, and the spread of coverage between them."""
    patients, cases, size, abstained = found.mean(axis=0)
    return {
        "coverage": float(patients),
        "coverage_of_cases": float(cases),
        "spread_over_splits": float(found[:, 0].std(ddof=1)),
        "standard_error": float(found[:, 0].std(ddof=1) / np.sqrt(len(found))),
        "size": float(size),
        "abstained": float(abstained),
    }


PARTS = {"covid": covid, "stain": stain, "pixels": pixels, "coverage": coverage, "mapie": beside}

if __name__ == "__main__":
    main()
