"""Inference on encrypted features: who asks shows no picture and no feature, who answers shows no weight.

As in Kaissis et al. 2021 (doi:10.1038/s42256-021-00337-8), here for heads that are linear in frozen features:
who asks embeds its own cases by a public encoder, encrypts each case's features and keeps the secret key; who
answers multiplies what it cannot read by its weights; only who asked can open the scores.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medspectrum import registry, store
from medspectrum.case import LeftOut
from medspectrum.errors import UserError
from medspectrum.progress import Progress, progress_for

STEPS = ("offer", "keys", "ask", "answer", "open")
SECRET, PUBLIC, ASKED = "secret.key", "public.key", "asked.json"
MOST_BYTES = 4 << 30
TOLD = ("model", "model_key", "size", "classes", "task", "task_settings")


def encrypted(
    step: str,
    *,
    out: Path,
    predictor: Path | None = None,
    data: Path | None = None,
    offer: Path | None = None,
    keys: Path | None = None,
    request: Path | None = None,
    answer: Path | None = None,
    layout: str | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Ask a linear head at another site about encrypted features; neither side sees the other's part.

    step: 'offer' (who has the predictor says which encoder it wants), 'keys' and 'ask' (who has the cases),
        'answer' (who has the predictor), 'open' (who has the cases).
    out: what the step writes: offer.json, a folder of keys, a request, an answer, or a CSV of predictions.
    predictor: the folder 'predictor' of a finished run (offer, answer).
    data: folder, table, archive or single image of new cases (ask).
    offer: the file that the other side offered (ask).
    keys: the folder of keys, which never leaves (ask, open).
    request: the file that was asked with (answer).
    answer: the file that came back (open).
    layout: name of the data's layout where it is not recognised by itself.
    cache: folder for features, shared between runs.
    quiet: show no progress.

    Returns what was written, its bytes, and seconds a case. Raises UserError where a file is not what the
    step needs.
    """
    begun = time.monotonic()
    left_out: list[LeftOut] = []
    with progress_for(quiet=quiet) as progress:
        if step == "offer":
            count = _offer(_given(predictor, "predictor", step), Path(out), cache)
        elif step == "keys":
            count = _keys(Path(out))
        elif step == "ask":
            places = (_given(data, "data", step), _given(offer, "offer", step), _given(keys, "keys", step))
            count, left_out = _ask(*places, Path(out), layout, cache, progress)
        elif step == "answer":
            places = (_given(predictor, "predictor", step), _given(request, "request", step))
            count = _answer(*places, Path(out), cache, progress)
        elif step == "open":
            count = _open(_given(answer, "answer", step), _given(keys, "keys", step), Path(out))
        else:
            raise UserError(f"there is no step {step!r}; there are: {', '.join(STEPS)}")
    files = [Path(out)] if Path(out).is_file() else sorted(Path(out).iterdir())
    seconds = time.monotonic() - begun
    return {
        "step": step,
        "out": str(out),
        "bytes": sum(f.stat().st_size for f in files),
        "cases": count,
        "seconds_per_case": seconds / count if count else None,
        "left_out": [asdict(x) for x in left_out],
    }


def _given(value: Path | None, name: str, step: str) -> Path:
    if value is None:
        raise UserError(f"the step {step} needs --{name}; see medspectrum encrypted --help")
    return Path(value)


def _head(folder: Path, cache: Path | None) -> tuple[Any, dict[str, Any]]:
    """A linear head and what the other side has to know of it. Raises UserError for any other predictor."""
    from medspectrum.predictor import load_predictor

    saved = load_predictor(folder, cache=store.cache_folder(cache))
    head: Any = saved.predictor
    if saved.facts["task"] != "classify" or not all(hasattr(head, n) for n in ("weights", "intercepts")):
        raise UserError(
            f"{folder} is of the method {saved.facts['method']}, whose answers are not linear in frozen "
            "features; encrypted inference takes ridge, linear_probe and private_probe"
        )
    told = {name: saved.facts[name] for name in TOLD}
    shape = {"unit_length": head.unit_length, "labelled": head.labelled, "width": len(head.weights)}
    return head, {**told, **shape, "present": [int(i) for i in head.present]}


def _offer(folder: Path, out: Path, cache: Path | None) -> int:
    store.write_json(out, _head(folder, cache)[1])
    return 0


def _keys(out: Path) -> int:
    from medspectrum.engine import ckks

    if (out / SECRET).exists():
        raise UserError(f"{out / SECRET} is there already; answers to what it asked open with no other")
    secret, public = ckks.new_keys()
    out.mkdir(parents=True, exist_ok=True)
    (out / SECRET).touch(mode=0o600)
    (out / SECRET).write_bytes(secret)
    store.write_bytes(out / PUBLIC, public)
    return 0


def _ask(
    data: Path, offer: Path, keys: Path, out: Path, layout: str | None, cache: Path | None, progress: Progress
) -> tuple[int, list[LeftOut]]:
    from medspectrum.datasets import load
    from medspectrum.engine import ckks
    from medspectrum.methods._features import case_features
    from medspectrum.methods._head import unit_rows
    from medspectrum.models import resolve

    told = _read_json(offer, (*TOLD, "unit_length", "labelled", "width", "present"))
    held = ckks.opened_keys(_read(keys / SECRET), secret=True)
    folder = store.cache_folder(cache)
    case_set = load(data, layout=layout, cache=folder)
    model = resolve(told["model"], size=told["size"], cache=folder)
    if model.key != told["model_key"]:
        raise UserError(f"{offer}: asks for other weights of {told['model']} than the ones found here")
    task = registry.find("task", told["task"]).thing(**told["task_settings"])
    images = [image for c in case_set.cases for image in task.seen(c)]
    failed = model.ensure(images, progress=progress.step(f"embedding by {told['model']}"))
    lost = {x.source for x in failed}
    cases = [c for c in case_set.cases if not any(i.source in lost for i in task.seen(c))]
    if not cases:
        raise UserError(f"{data}: none of its {len(case_set.cases)} cases can be read")
    rows = case_features(model, cases, width=told["width"]).astype(np.float64)
    rows = unit_rows(rows) if told["unit_length"] else rows
    step = progress.step("encrypting")
    parts: dict[str, bytes] = {"keys": _read(keys / PUBLIC)}
    for place, row in enumerate(rows):
        parts[str(place)] = ckks.encrypt(held, row)
        step(place + 1, len(rows))
    _write_parts(out, parts, told["model_key"])
    names = [[c.id, c.patient] for c in cases]
    store.write_json(keys / ASKED, {"offer": told, "cases": names})
    return len(cases), [*case_set.left_out, *failed]


def _answer(folder: Path, request: Path, out: Path, cache: Path | None, progress: Progress) -> int:
    from medspectrum.engine import ckks

    head, told = _head(folder, cache)
    parts = _read_parts(request, told["model_key"])
    held = ckks.opened_keys(parts.pop("keys", b""), secret=False)
    step = progress.step("computing under encryption")
    found: dict[str, bytes] = {}
    for place in range(len(parts)):
        if str(place) not in parts:
            raise UserError(f"{request}: case {place + 1} of {len(parts)} is missing; ask again")
        own = ckks.scores(held, parts[str(place)], head.weights, head.intercepts)
        found |= {f"{place}.{column}": one for column, one in enumerate(own)}
        step(place + 1, len(parts))
    _write_parts(out, found, told["model_key"])
    return len(parts)


def _open(answer: Path, keys: Path, out: Path) -> int:
    from medspectrum.engine import ckks
    from medspectrum.methods._probabilities import softmax, spread_to_all

    asked = _read_json(keys / ASKED, ("offer", "cases"))
    told, cases = asked["offer"], asked["cases"]
    parts = _read_parts(answer, told["model_key"])
    held = ckks.opened_keys(_read(keys / SECRET), secret=True)
    columns = {1: 0, 2: 1}.get(len(told["present"]), len(told["present"]))
    wanted = [[f"{i}.{c}" for c in range(columns)] for i in range(len(cases))]
    if set(parts) != {name for own in wanted for name in own}:
        raise UserError(f"{answer} does not answer the {len(cases)} cases that were asked last; ask again")
    logits = np.array([ckks.decrypt(held, [parts[n] for n in own]) for own in wanted])
    shares = softmax(logits) if columns else np.ones((len(cases), 1))
    present = np.array(told["present"])
    shares = spread_to_all(shares, present, len(told["classes"]), told["labelled"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "patient", *told["classes"], "prediction"])
    for (name, patient), row in zip(cases, shares, strict=True):
        writer.writerow([name, patient, *(f"{p:.6f}" for p in row), told["classes"][int(row.argmax())]])
    store.write_bytes(out, text.getvalue().encode())
    return len(cases)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is missing; make keys with: medspectrum encrypted keys --out FOLDER")
    return path.read_bytes()


def _read_json(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        found = store.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; ask the other side for it again") from None
    if not isinstance(found, dict) or not set(names) <= set(found):
        raise UserError(f"{path} lacks {', '.join(n for n in names if n not in found)}; it is another file")
    return found


def _write_parts(out: Path, parts: dict[str, bytes], model_key: str) -> None:
    from safetensors.numpy import save

    arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
    store.write_bytes(out, save(arrays, metadata={"model_key": model_key}))


def _read_parts(path: Path, model_key: str) -> dict[str, bytes]:
    """The parts of a file from the other side, each of whose size is looked at before it is opened."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} is missing or has more than {MOST_BYTES >> 30} GB; ask in smaller parts")
    try:
        with safe_open(path, framework="np") as held:
            if (held.metadata() or {}).get("model_key") != model_key:
                raise UserError(
                    f"{path} is about features of another encoder; take the offer anew and ask again"
                )
            return {name: held.get_tensor(name).tobytes() for name in held.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); send it again") from None
