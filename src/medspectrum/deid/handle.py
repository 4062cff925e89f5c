"""One file in, what may leave the house out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medspectrum.deid import dicom, dicom_file, faces, pictures, pixels, tiff, volumes, words
from medspectrum.deid.known import Known
from medspectrum.deid.options import Options
from medspectrum.deid.secret import Secret
from medspectrum.errors import UnreadableFile

NOT_COPIED = {
    "link": "is a link; put the file itself there",
    "special": "is no ordinary file",
    "unreadable": "may not be opened; ask for read access",
    "dicomdir": "is a DICOMDIR, an index that names patients; make a new one from what was written",
    "unknown": "is of a kind that cannot be cleaned; it stays where it is",
}


@dataclass(frozen=True)
class Result:
    """What a file became: its content, or what writes it, or None and why; how often each thing was done to
    it.
    """

    content: bytes | Callable[[Path], None] | None
    done: Counter[str]
    reason: str = ""
    warning: str = ""


def handled(path: Path, kind: str, shown: str, secret: Secret, known: Known, options: Options) -> Result:
    """De-identify one file. Nothing of its content stands in the result but what may leave the house."""
    if kind in NOT_COPIED:
        return Result(None, Counter(), NOT_COPIED[kind])
    if kind.endswith(" archive"):
        return Result(None, Counter(), f"is a {kind}; unpack it first")
    handler = HANDLERS.get(kind)
    if handler is None:
        return Result(None, Counter(), NOT_COPIED["unknown"])
    try:
        return handler(path, shown, secret, known, options)
    except UnreadableFile as error:
        return Result(None, Counter(), error.reason)
    except Exception as error:  # noqa: BLE001 - whatever a parser raises may quote the file, so only its type is told
        return Result(
            None, Counter(), f"cannot be read as {kind.upper()} ({type(error).__name__}); send it again"
        )


def _dicom(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:
    with dicom_file.quiet():
        data = dicom_file.read(path, shown)
        if options.faces == "remove":
            faces.refuse_object(str(data.get("Modality", "")), str(data.get("BodyPartExamined", "")), shown)
        done = dicom.deidentified(data, secret, known, options)
        dicom_file.whole(data, shown)
        done["removed"] += dicom_file.without_words(data, shown)
        done["overlays"] += bool(dicom_file.without_high_bits(data))
        done += (
            pixels.blanked(data, shown, text=options.pixels == "text")
            if options.pixels != "keep"
            else Counter()
        )
        dicom.mark(data, options, pixels=options.pixels == "text")
    return Result(dicom_file.encoded(data), done)


def _nifti(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:  # noqa: ARG001
    content, done = volumes.nifti(path, shown)
    if options.faces == "remove":
        content, found = faces.nifti(content, path, shown)
        done["face removed"] += found
    return Result(content, +done)


def _nrrd(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:  # noqa: ARG001
    content, done = volumes.nrrd(path, shown, known)
    if options.faces == "remove":
        content, found = faces.nrrd(content, path, shown)
        done["face removed"] += found
    return Result(content, +done)


def _png(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:  # noqa: ARG001
    return _picture(*pictures.png(path.read_bytes(), shown), "PNG", shown, options)


def _jpeg(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:  # noqa: ARG001
    return _picture(*pictures.jpeg(path.read_bytes(), shown), "JPEG", shown, options)


def _picture(content: bytes, done: Counter[str], kind: str, shown: str, options: Options) -> Result:
    if options.pixels == "text":
        content, boxes = pixels.picture(content, kind, shown)
        done["text blanked"] += boxes
    return Result(content, +done)


def _tiff(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:  # noqa: ARG001
    if options.pixels == "text":
        pixels.refuse_lettered_tiff(path, shown)
    kept, patches, done, size = tiff.cleaned(path, shown)
    return Result(partial(tiff.write, path, kept=kept, patches=patches, size=size), done)


def _text(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:  # noqa: ARG001
    return Result(*words.text(path, shown, known, options))


def _table(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:
    return Result(*words.table(path, shown, secret, known, options))


def _json(path: Path, shown: str, secret: Secret, known: Known, options: Options) -> Result:
    return Result(*words.notes(path, shown, secret, known, options))


HANDLERS: dict[str, Callable[[Path, str, Secret, Known, Options], Result]] = {
    "dicom": _dicom,
    "nifti": _nifti,
    "nrrd": _nrrd,
    "png": _png,
    "jpeg": _jpeg,
    "tiff": _tiff,
    "text": _text,
    "table": _table,
    "json": _json,
}
