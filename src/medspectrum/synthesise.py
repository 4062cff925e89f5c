"""Pictures of a class made by a generator that saw the training part alone, and what they are worth."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import __version__, store
from medspectrum.audit import kept_together
from medspectrum.budgets import Split, label_of, make_split, nested_budgets, parse_budgets
from medspectrum.case import Case, CaseSet, LazyImage, LeftOut
from medspectrum.engine import generating, pipeline_folder
from medspectrum.errors import UserError
from medspectrum.gain import gain
from medspectrum.image import Image
from medspectrum.metrics.generated import kid, memorised, precision_recall
from medspectrum.outcome import plain, write_left_out
from medspectrum.plan import Plan
from medspectrum.pool import seeing
from medspectrum.progress import Progress, progress_for
from medspectrum.synthetic import TRAINED_ON
from medspectrum.tasks.classify import Classify

SMALLEST, LARGEST = 28, 64
"""Pixels per side of what is made."""
LARGEST_AUDITED = 256
"""Pixels per side at which pictures of a published model are compared with real ones."""
DRAWN_IN = 50
FEWEST_HELD = 20
"""Held-out cases below which what is usual cannot be told."""
AUDITED = 1000
"""Cases of each side, at most, whose kernel distance and reach are compared."""


def synthesise(
    data: Path,
    *,
    class_: str = "",
    n: int,
    out: Path,
    kind: str = "diffusion",
    model: Path | None = None,
    prompt: str = "{class}",
    minutes: float = 10.0,
    steps: int | None = None,
    guidance: float = 2.0,
    size: int | None = None,
    models: str = "",
    budgets: str = "1,5,10,full",
    draws: int = 5,
    seed: int = 0,
    layout: str | None = None,
    image: str | None = None,
    label: str | None = None,
    patient: str | None = None,
    centre: str | None = None,
    split: str | None = None,
    patient_pattern: str | None = None,
    allow_leak: bool = False,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Make pictures of a class, and say whether they are copies and what they add to real labels.

    data: folder, table or archive of labelled pictures; a generator learns from its training part alone.
    class_: classes to make pictures of, separated by commas; all where empty.
    n: how many pictures to make of each.
    out: folder for images, labels.csv, audit.json, report.html and the generator.
    kind: of generator: diffusion or gan.
    minutes: of training, turned into steps by the speed measured here when it begins.
    model: folder of a published latent diffusion in diffusers' layout (RoentGen); nothing is trained then.
    prompt: what such a model is told to draw; {class} stands for the class.
    steps: of training, in place of minutes: the same everywhere; with a model, of drawing (50 by itself).
    guidance: how closely a diffusion keeps to the class; 1 as learned, more is less varied.
    size: pixels per side, 28, 32, 40, 48, 56 or 64; chosen from the images where not given.
    models: encoder that pictures are judged by; the smallest real one that fits and is here, where empty.
    budgets: real cases per class, separated by commas, and 'full', to which made pictures are added.
    draws: how many labelled sets are drawn for each budget.
    seed: where every random choice starts.
    layout: name of the data's layout where it is not recognised by itself.
    image: column with image paths (tables).
    label: column with the class (tables).
    patient: column with the patient (tables).
    centre: column with the centre (tables).
    split: column with train, val or test (tables).
    patient_pattern: regular expression whose first group is the patient in a file's name.
    allow_leak: accept a given split in which patients stand on several sides.
    cache: folder for features, shared with explore.
    quiet: show no progress.

    Returns the content of audit.json. Raises UserError for input that cannot be used.
    """
    if kind not in generating.KINDS:
        raise UserError(f"there is no kind {kind!r} of generator; there are {', '.join(generating.KINDS)}")
    if n < 1:
        raise UserError(f"n is {n}; make one picture at least")
    if minutes <= 0 or (steps is not None and steps < 1):
        raise UserError("minutes and steps must be above 0; a generator that learned nothing makes noise")
    if model is not None:
        pipeline_folder.check(Path(model))
    asked = parse_budgets(budgets)
    started = time.monotonic()
    plan = Plan(
        layout=layout, image=image, label=label, patient=patient, centre=centre, split=split,
        patient_pattern=patient_pattern,
    )  # fmt: skip
    folder, out = store.cache_folder(cache), Path(out)
    with progress_for(quiet=quiet) as progress:
        case_set, facts, left_out = _cases(Path(data), plan, folder, progress)
        task = Classify.of(case_set.cases)
        cases, joined = kept_together(case_set.cases, facts["leaks"])  # as explore does: the same parts
        parts = make_split(cases, seed=seed, allow_leak=allow_leak)
        left_out.extend(parts.left_out)
        wanted = _wanted(class_, task, parts)
        labels = np.array([task.target(c) for c in parts.train])
        made_labels = np.repeat([task.classes.index(c) for c in wanted], n)
        if model is not None:
            prompts = [prompt.replace("{class}", task.classes[i]) for i in made_labels]
            made, generator = _drawn(Path(model), prompts, parts, guidance, steps, seed, progress)
        else:
            made, generator = _learned(
                kind, parts, labels, task, made_labels, out, minutes, steps, guidance, size, seed, progress
            )
        channels, side = made.shape[1], min(LARGEST_AUDITED, *made.shape[2:])
        pictures = {p: _pictures(getattr(parts, p), side, channels) for p in ("train", "val", "test")}
        names = _write_pictures(out, made, [task.classes[i] for i in made_labels])
        see, encoder = _seeing(models, parts, facts, pictures, folder, progress)
        made = np.stack([squared(held_picture(p), side, channels) for p in made])
        rows = see("synthetic", made)
        results = {
            "format": 1,
            "version": __version__,
            "data": {"path": str(data), "name": case_set.name, "split": parts.counts()},
            "classes": list(task.classes),
            "made": dict.fromkeys(wanted, n),
            "size": list(made.shape[1:]),
            "generator": generator,
            "seed": seed,
            "encoder": {"name": encoder.card.name, "size": list(encoder.size)},
            "memorisation": _memorisation(parts, see, rows, names, pictures, made),
            "quality": _quality(parts, task, see, rows, made_labels, seed),
            "gain": gain(
                nested_budgets(parts.train, asked, draws=draws, seed=seed),
                parts.test,
                task,
                see.of(parts),
                rows,
                made_labels,
                counts=np.bincount(labels, minlength=len(task.classes)).tolist(),
                seed=seed,
                progress=progress.step("what they add to real labels"),
            ),
            "notes": [*parts.notes, *([f"{joined} patients share pictures or names"] if joined else [])],
            "left_out": [asdict(x) for x in left_out],
            "seconds": time.monotonic() - started,
            "report": str(out / "report.html"),
        }
        results = plain(results)
        store.write_json(out / "audit.json", results)
        write_left_out(out / "left_out.csv", results["left_out"])
        from medspectrum.report.synthesis import write_synthesis

        write_synthesis(
            out / "report.html",
            results,
            made=made,
            train=pictures["train"],
            train_classes=[task.classes[i] for i in labels],
            made_classes=[task.classes[i] for i in made_labels],
        )
    return results


def _learned(
    kind: str,
    parts: Split,
    labels: np.ndarray,
    task: Classify,
    made_labels: np.ndarray,
    out: Path,
    minutes: float,
    steps: int | None,
    guidance: float,
    size: int | None,
    seed: int,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Pictures (n, C, side, side) uint8 of a generator trained here, and what it is."""
    side, channels = _shape(parts.train, size)
    step = progress.step(f"training the {kind}")
    begun = time.process_time()
    generator = generating.learn(
        kind,
        _pictures(parts.train, side, channels).astype(np.float32) / 127.5 - 1,
        labels,
        len(task.classes),
        out / "generator",
        seconds=60 * minutes,
        steps=steps,
        guidance=guidance,
        seed=seed,
        progress=lambda _, done, total: step(done, total),
    )
    trained = time.process_time() - begun
    seen_by = [next(iter(c.images.values())).key() for c in parts.train]
    store.write_json(out / TRAINED_ON, sorted(seen_by))
    made = generator.sample(made_labels, seed, progress.step("making pictures"))
    return made, {
        "kind": kind,
        "steps": generator.steps,
        "parameters": generator.parameters,
        "bf16": generator.bf16,
        "guidance": guidance if kind == "diffusion" else None,
        "cpu_seconds": trained,
        "saw": f"all {len(parts.train)} training cases, no validation or test case",
    }


def _drawn(
    model: Path,
    prompts: Sequence[str],
    parts: Split,
    guidance: float,
    steps: int | None,
    seed: int,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Pictures (n, C, height, width) uint8 of a published model, grey where the data are, and what it is."""
    from medspectrum.transforms import with_channels

    begun, steps = time.process_time(), steps or DRAWN_IN
    made = pipeline_folder.draw(
        model, prompts, guidance=guidance, steps=steps, seed=seed, progress=progress.step("drawing pictures")
    )
    channels = _channels([next(iter(c.images.values())).load() for c in parts.train[:32]])
    return np.stack([with_channels(p, channels) for p in made]), {
        "kind": "published",
        "model": model.name,
        "prompts": list(dict.fromkeys(prompts)),
        "steps": steps,
        "guidance": guidance,
        "cpu_seconds": time.process_time() - begun,
        "saw": "what its makers say: whether test cases are among it is not known here",
    }


def _cases(
    data: Path, plan: Plan, folder: Path, progress: Progress
) -> tuple[CaseSet, dict[str, Any], list[LeftOut]]:
    """The readable, labelled cases with one flat picture each, and what was left out."""
    from medspectrum.datasets import load
    from medspectrum.describe import describe_cases, usable

    case_set = load(data, layout=plan.layout, cache=folder, **plan.columns())
    facts = describe_cases(case_set, cache=folder, progress=progress.step("reading cases"))
    case_set, left_out = usable(case_set, facts)
    kept = []
    task = Classify.of(case_set.cases)
    for case in case_set.cases:
        why = task.lacking(case) or ("" if len(case.images) == 1 else "has several images; one is needed")
        if why:
            left_out.append(LeftOut(case.id, why))
        else:
            kept.append(case)
    return CaseSet(case_set.name, case_set.layout, tuple(kept)), facts, left_out


def _wanted(text: str, task: Classify, parts: Split) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()] or list(task.classes)
    there = {label_of(c) for c in parts.train}
    for name in names:
        if name not in there:
            raise UserError(
                f"no training case is of the class {name!r}; there are {', '.join(sorted(there))}"
            )
    return list(dict.fromkeys(names))


def _shape(cases: Sequence[Case], size: int | None) -> tuple[int, int]:
    """Pixels per side, and 1 or 3 channels, that suit the cases."""
    first = [next(iter(c.images.values())).load() for c in cases[:32]]
    if any(image.is_volume for image in first):
        raise UserError("the data hold volumes; only flat pictures can be learned from")
    side = size or int(np.clip(np.median([min(image.size[1:]) for image in first]), SMALLEST, LARGEST))
    if not size:
        side -= side % (8 if side > 32 else 4)
    if not SMALLEST <= side <= LARGEST or side % (8 if side > 32 else 4):
        raise UserError(f"size is {side}; give 28, 32, 40, 48, 56 or 64 pixels")
    return side, _channels(first)


def _channels(images: Sequence[Image]) -> int:
    """3 where any picture has colour, else 1."""
    colour = (i.array.shape[0] >= 3 and np.ptp(i.array[:3].astype(float), axis=0).max() > 2 for i in images)
    return 3 if any(colour) else 1


def _pictures(cases: Sequence[Case], side: int, channels: int) -> np.ndarray:
    """(n, C, side, side) uint8: the middle square of each picture."""
    made = np.zeros((len(cases), channels, side, side), np.uint8)
    for i, case in enumerate(cases):
        made[i] = squared(next(iter(case.images.values())).load(), side, channels)
    return made


def squared(image: Image, side: int, channels: int) -> np.ndarray:
    """(C, side, side) uint8: the middle square of a picture."""
    from medspectrum.transforms import planes, resize, with_channels

    plane = planes(image)[0]
    height, width = plane.shape[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    small = resize(with_channels(plane[:, top : top + edge, left : left + edge], channels), (side, side))
    return small if small.dtype == np.uint8 else np.rint(255 * small).astype(np.uint8)


def _write_pictures(out: Path, made: np.ndarray, classes: Sequence[str]) -> list[str]:
    """images/NNNNN.png and labels.csv, whose columns ``explore`` reads; gives the names."""
    from PIL import Image as Pillow

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "class", "patient", "split", "synthetic"])
    names = []
    for number, (picture, label) in enumerate(zip(made, classes, strict=True)):
        name = f"images/{number:05d}.png"
        written = io.BytesIO()
        Pillow.fromarray(picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)).save(
            written, "PNG"
        )
        store.write_bytes(out / name, written.getvalue())
        table.writerow([name, label, f"synthetic-{number:05d}", "train", "yes"])
        names.append(name)
    store.write_bytes(out / "labels.csv", text.getvalue().encode())
    return names


def held_picture(picture: np.ndarray) -> Image:
    """An Image of (C, Y, X)."""
    return Image(picture[:, None], spacing_known=False)


class _Seeing:
    """Features of pictures at the made ones' size: a real one is seen as small as a made one."""

    def __init__(self, encoder: Any, pictures: dict[str, np.ndarray], progress: Progress) -> None:
        self.encoder, self.progress = encoder, progress
        self.rows: dict[str, np.ndarray] = {}
        for part, own in pictures.items():
            self(part, own)

    def __call__(self, part: str, pictures: np.ndarray | None = None) -> np.ndarray:
        if pictures is not None and len(pictures):
            images = lazy_pictures(part, pictures)
            failed = self.encoder.ensure(images, self.progress.step(f"embedding {part} pictures"))
            if failed:
                raise UserError(f"{failed[0].source}: {failed[0].reason}")
            self.rows[part] = np.asarray(self.encoder.embed(images).pooled, np.float64)
        return self.rows.get(part, np.zeros((0, 0)))

    def of(self, parts: Split) -> Callable[[Sequence[Case]], np.ndarray]:
        """The rows of cases of any part."""
        row = {
            c.id: self.rows[part][i]
            for part in ("train", "val", "test")
            for i, c in enumerate(getattr(parts, part))
        }
        return lambda cases: np.stack([row[c.id] for c in cases])


def lazy_pictures(part: str, pictures: np.ndarray) -> list[LazyImage]:
    """Pictures (n, C, Y, X) as the encoders take them."""
    return [
        LazyImage(
            f"{part}/{i}",
            partial(held_picture, p),
            partial(store.digest, "picture", p.tobytes(), list(p.shape)),
        )
        for i, p in enumerate(pictures)
    ]


def _seeing(
    models: str,
    parts: Split,
    facts: dict[str, Any],
    pictures: dict[str, np.ndarray],
    folder: Path,
    progress: Progress,
) -> tuple[_Seeing, Any]:
    encoder = seeing(models, parts.train, facts, None, folder)[0]
    encoder = encoder.for_images(lazy_pictures("train", pictures["train"][:32]))
    return _Seeing(encoder, pictures, progress), encoder


def _memorisation(
    parts: Split,
    see: _Seeing,
    rows: np.ndarray,
    names: Sequence[str],
    pictures: dict[str, np.ndarray],
    made: np.ndarray,
) -> dict[str, Any]:
    """Nearest training cases by features and by pixels, and the verdict. Held out is the validation part."""
    if len(parts.val) < FEWEST_HELD:
        why = f"{len(parts.val)} validation cases cannot tell what is usual; {FEWEST_HELD} are needed"
        return {"passed": None, "why": why}
    patients = np.array([c.patient for c in parts.train])
    found = {
        "features": memorised(see("train"), patients, see("val"), rows),
        "pixels": memorised(
            seen_small(pictures["train"]), patients, seen_small(pictures["val"]), seen_small(made)
        ),
    }
    told: dict[str, Any] = {}
    for name, one in found.items():
        told[name] = {k: v for k, v in one.items() if k != "rows"}
    places = found["features"]["rows"]
    pixel = found["pixels"]["rows"]
    told["passed"] = all(one["copies"]["share"] <= one["copies"]["limit"] for one in found.values())
    told["held_out"] = len(parts.val)
    told["nearest"] = [
        {
            "image": names[i],
            "case": parts.train[int(places["nearest"][i])].id,
            "place": int(places["nearest"][i]),
            "distance": float(places["distance"][i]),
            "ratio": float(places["ratio"][i]),
            "copy": bool(places["copy"][i] or pixel["copy"][i]),
        }
        for i in range(len(names))
    ]
    return told


def seen_small(pictures: np.ndarray) -> np.ndarray:
    """(n, d) pixels of 8-bit pictures as means over 14 by 14 parts, less their mean: noise counts little."""
    import torch
    from torch.nn import functional

    small = (
        functional.adaptive_avg_pool2d(torch.from_numpy(pictures.astype(np.float32)), 14).flatten(1).numpy()
    )
    return (small - small.mean(1, keepdims=True)) / 255.0


def _quality(
    parts: Split, task: Classify, see: _Seeing, rows: np.ndarray, made_labels: np.ndarray, seed: int
) -> dict[str, Any]:
    """Kernel distance, precision and recall against validation cases of the classes made."""
    classes = np.unique(made_labels)
    rng = np.random.default_rng([seed, 4])

    def some(part: str) -> np.ndarray:
        own = [i for i, c in enumerate(getattr(parts, part)) if task.target(c) in classes]
        return see(part)[rng.permutation(own)[:AUDITED]] if own else np.zeros((0, rows.shape[1]))

    real, train = some("val"), some("train")
    made = rows[rng.permutation(len(rows))[:AUDITED]]
    scale = np.sqrt(np.mean(np.square(train - train.mean(0))) * 2) or 1.0
    told = {}
    for name, one in (("synthetic", made), ("training", train)):
        precision, recall = precision_recall(real, one)
        told[name] = {"kid": kid(real / scale, one / scale), "precision": precision, "recall": recall}
    return {**told, "against": len(real)}
