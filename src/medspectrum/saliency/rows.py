"""Answers explained one by one: each a row of explanations.json, its overlays and its maps as files."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, store
from medspectrum.case import LeftOut
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.predictor import SavedPredictor
from medspectrum.saliency.asked import TASKS, Asked
from medspectrum.saliency.checks import CHECKS, Tested, verdict
from medspectrum.saliency.maps import NAMES

FORMAT = 1


def explained(
    saved: SavedPredictor,
    chosen: Sequence[Asked],
    methods: Sequence[str],
    folder: Path,
    seed: int,
    step: Callable[[int, int], None],
    *,
    seconds: float | None = None,
) -> tuple[list[dict[str, Any]], list[LeftOut]]:
    """A row for each answer. What was finished by an earlier, stopped call is taken from the folder.

    methods: names of maps; all that the network allows, where empty. seconds: of processor time after the
    first answer, after which no further one is begun.
    """
    begun = None
    arrays, _ = saved.predictor.state()
    sums = [store.digest(name, np.ascontiguousarray(a).data.tobytes()) for name, a in arrays.items()]
    rows, failed = [], []
    for number, asked in enumerate(chosen):
        if rows and begun is None:
            begun = time.process_time()  # from the second answer on: the first one waits for libraries
        if seconds is not None and begun is not None and time.process_time() - begun > seconds:
            break
        try:
            keys = [image.key() for image in asked.case.images.values()]
            key = store.digest(
                FORMAT, __version__, saved.facts, sums, keys, list(methods), asked.explained, seed
            )
            kept = folder / "cases" / f"{key}.json"
            if kept.is_file():
                rows.append(store.read_json(kept))
            else:
                made = _one(saved, asked, methods, folder, seed)
                store.write_json(kept, made)
                rows.append(made)
        except UnreadableFile as error:
            failed.append(LeftOut(error.source, error.reason))
        except UserError as error:
            failed.append(LeftOut(asked.case.id, str(error)))
        step(number + 1, len(chosen))
    return rows, failed


def _one(
    saved: SavedPredictor, asked: Asked, methods: Sequence[str], folder: Path, seed: int
) -> dict[str, Any]:
    """Everything about one answer; its pictures are written before."""
    from medspectrum.saliency import overlay

    case, seen = asked.case, asked.see()
    tested = Tested(seen, asked.explained, seed=seed)
    possible = tested.maps.possible()
    unfit = [name for name in methods if name not in possible]
    if unfit:
        raise UserError(
            f"{saved.facts['model']} allows no {', '.join(unfit)}; it allows {', '.join(possible)}"
        )
    name = re.sub(r"[^\w.-]+", "_", case.id)[-60:] + "-" + store.digest(case.id)[:6]
    role = next(iter(seen.images))
    image = seen.images[role]
    made: dict[str, Any] = {}
    top: np.ndarray | None = None
    for method in methods or possible:
        begun = time.process_time()
        maps, told = tested.test(method)
        top = maps[role] if top is None else top
        made[method] = {
            "overlays": _draw(overlay.drawn(image, maps[role], tested.inside), folder, name, method),
            "tests": told,
            "cpu_seconds": time.process_time() - begun,
        }
        if image.is_volume:
            path = folder / "maps" / f"{name}_{method}.nii.gz"
            overlay.write_volume(path, image, maps[role])
            made[method]["map"] = str(path.relative_to(folder))
    stored = overlay.drawn(image, None, tested.inside, through=top)
    return {
        "case": case.id,
        "patient": case.patient,
        "truth": asked.truth,
        "answer": asked.answer,
        "explained": asked.explained,
        "probability": asked.probability,
        "picture": _draw(stored, folder, name, "image"),
        "marked": tested.inside is not None,
        "methods": made,
    }


def _draw(pictures: dict[str, np.ndarray], folder: Path, name: str, method: str) -> list[str]:
    """Write overlays; gives their paths in the folder."""
    from medspectrum.saliency import overlay

    paths = []
    for plane, picture in pictures.items():
        ending = "" if plane == "picture" else f"_{plane}"
        path = folder / "overlays" / f"{name}_{method}{ending}.png"
        store.write_bytes(path, overlay.png(picture))
        paths.append(str(path.relative_to(folder)))
    return paths


def judged(method: str, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """What all rows say of one kind of map: its checks, whether it passed, and what it costs."""
    own = [row for row in rows if method in row["methods"]]
    told = verdict([r["methods"][method]["tests"] for r in own], [r["patient"] for r in own], seed=seed)
    seconds = float(np.mean([r["methods"][method]["cpu_seconds"] for r in own]))
    return {"name": NAMES[method], **told, "cpu_seconds": seconds}


def summary(task: str, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The words of explanations.json that follow from its rows."""
    used = list(dict.fromkeys(name for row in rows for name in row["methods"]))
    methods = {name: judged(name, rows, seed) for name in used}
    return {
        "score": TASKS[task],
        "methods": methods,
        "meanings": CHECKS,
        "passed": any(m["passed"] for m in methods.values()),
        "failed": [name for name, m in methods.items() if m["passed"] is False],
        "cases": list(rows),
    }
