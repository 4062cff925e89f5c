"""Remove what identifies patients from a folder of images and reports, and tell what was done."""

from __future__ import annotations

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medspectrum import __version__, store
from medspectrum.deid import facts, lettering, tree
from medspectrum.deid.faces import lacking as face_lacking
from medspectrum.deid.handle import Result, handled
from medspectrum.deid.known import Known, known_of
from medspectrum.deid.options import Options, options_of
from medspectrum.deid.secret import Secret, secret_of
from medspectrum.errors import UserError
from medspectrum.progress import Progress, progress_for

TABLE = "deidentified.csv"
JOURNAL = ".deidentified.partial.csv"
COLUMNS: tuple[str, ...] = ("file", "kind", "outcome", "done", "reason", "mark")
_FEW = 24
"""Up to so many files a second process costs more than it saves."""


def deidentify(
    data: Path,
    *,
    out: Path,
    key: Path | None = None,
    retain: str = "",
    clean: str = "",
    dates: str = "remove",
    pixels: str = "text",
    faces: str = "keep",
    names: str = "clean",
    known: Path | None = None,
    link: Path | None = None,
    workers: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Remove what identifies patients from a folder of images and reports, and tell what was done.

    data: folder of files; its tree is kept, what cannot be cleaned is not copied but listed.
    out: folder for the cleaned files and deidentified.csv.
    key: file with the secret key that pseudonyms, UIDs and shifts come from; made where it is not there, as
        OUT.key where not given. Keep it: with it, later files of the same patients go together with these.
    retain: options of the standard's profile, separated by commas: uids, device, institution, patient
        (age, sex, size, weight).
    clean: keep these and search them instead of removing them: descriptors, structured (reports), graphics.
    dates: remove, shift (each patient's dates go back by the same one to ten years) or keep.
    pixels: text finds burnt-in lettering and blanks it, in ultrasound also what lies outside of the regions
        in the header; regions does the latter alone; keep leaves pixels as they are.
    faces: remove keeps of NIfTI and NRRD volumes of the head only the brain and 8 mm around it.
    names: of files and folders: clean takes out what identifies, replace gives every one a new name.
    known: text file with further names and numbers to look for, one a line.
    link: CSV for your own records that tells which file became which; it identifies patients.
    workers: processes; one per core where 0.
    quiet: show no progress.

    Returns what was done, by kind of file and in all, and what was left out. Raises UserError for folders
    that lie in one another, a key or link inside OUT, and an OUT that holds other files.
    """
    begun = time.monotonic()
    options = options_of(retain=retain, clean=clean, dates=dates, pixels=pixels, faces=faces, names=names)
    source, target = Path(data), Path(out)
    warnings = []
    if options.faces == "remove" and (words := face_lacking()):
        raise UserError(f"--faces remove cannot find the brain: {words}")
    if options.pixels == "text" and (words := lettering.lacking()):
        options = replace(options, pixels="regions")
        warnings.append(f"burnt-in text was not looked for, only regions of ultrasound were blanked: {words}")
    place = Path(key) if key is not None else target.with_name(target.name + ".key")
    _check(source, target, {"key": place, "link": link and Path(link)})
    with progress_for(quiet=quiet) as progress:
        found = tree.entries(source)
        if not found:
            raise UserError(f"{source}: holds no files; name the folder that does")
        secret = secret_of(place)
        looked_for = _known(source, found, known, secret, workers, progress)
        places = tree.new_places(found, looked_for, secret, options)
        moved = {"/".join(entry.parts): new for entry, new in zip(found, places, strict=True)}
        looked_for = replace(looked_for, places=moved)
        jobs = [
            (entry, new, _mark(entry, new, looked_for, secret, options))
            for entry, new in zip(found, places, strict=True)
        ]
        if link is not None:
            _write_link(Path(link), jobs)
        rows = _run(source, target, jobs, secret, looked_for, options, workers, progress)
    return _told(target, place, rows, warnings, begun)


def _check(source: Path, target: Path, beside: dict[str, Path | None]) -> None:
    """Nothing secret inside what leaves the house, nothing written into the originals."""
    if not source.is_dir():
        raise UserError(f"{source}: is no folder; name the folder that holds the files")
    whole, new = source.resolve(), target.resolve()
    if new == whole or whole in new.parents or new in whole.parents:
        raise UserError(f"{target}: lies in the folder of originals or around it; name another --out")
    for setting, path in beside.items():
        if path is not None and new in path.resolve().parents:
            raise UserError(
                f"--{setting} lies inside --out, from where it would leave with the files; name another place"
            )
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file; name a folder with --out")
    if (
        target.is_dir()
        and any(target.iterdir())
        and not any((target / n).is_file() for n in (TABLE, JOURNAL))
    ):
        raise UserError(f"{target}: holds other files; name a new folder with --out")


def _known(
    source: Path,
    found: Sequence[tree.Entry],
    further: Path | None,
    secret: Secret,
    workers: int,
    progress: Progress,
) -> Known:
    """Names and numbers of all headers, tables and of the user's list."""
    told: list[facts.Fact] = []
    if further is not None:
        try:
            lines = Path(further).read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            raise UserError(
                f"{further}: cannot be read as text; give names and numbers, one a line"
            ) from None
        kinds = (("id" if any(c.isdigit() for c in line) else "name", line.strip()) for line in lines)
        told += [(kind, line, "") for kind, line in kinds if line]
    paths = [str(source.joinpath(*e.parts)) for e in found if e.kind in ("dicom", "json", "table")]
    kinds = [e.kind for e in found if e.kind in ("dicom", "json", "table")]
    step = progress.step("reading headers")
    for done, own in enumerate(_mapped(_facts, list(zip(paths, kinds, strict=True)), workers), start=1):
        told += own
        step(done, len(paths))
    return known_of(told, secret)


def _facts(job: tuple[str, str]) -> list[facts.Fact]:
    path, kind = job
    try:
        return facts.of_dicom(Path(path)) if kind == "dicom" else facts.of_text_file(Path(path))
    except OSError:
        return []


def _mark(entry: tree.Entry, new: str, known: Known, secret: Secret, options: Options) -> str:
    """Changes where the file, the settings, the key or what is looked for changes."""
    words = [
        __version__,
        *options.words(),
        known.digest(secret),
        *entry.parts,
        str(entry.size),
        str(entry.changed),
        new,
    ]
    return secret.digest("mark", "\0".join(words)).hex()[:20]


Job = tuple[tree.Entry, str, str]


def _run(
    source: Path,
    target: Path,
    jobs: Sequence[Job],
    secret: Secret,
    known: Known,
    options: Options,
    workers: int,
    progress: Progress,
) -> list[dict[str, str]]:
    """Every file that is not there yet; the table at the end. A run that was stopped goes on from its
    journal.
    """
    target.mkdir(parents=True, exist_ok=True)
    for part in target.rglob(".*.partial"):
        part.unlink(missing_ok=True)
    rows = {row["mark"]: row for row in _earlier(target)}
    kept = {mark: rows[mark] for entry, new, mark in jobs if mark in rows and _stands(target, rows[mark])}
    wanted = {new for _, new, _ in jobs}
    for row in rows.values():
        if row["mark"] not in kept and row["file"] not in wanted:
            (target / row["file"]).unlink(missing_ok=True)
    todo = [
        (str(source.joinpath(*e.parts)), e.kind, str(target), new, mark)
        for e, new, mark in jobs
        if mark not in kept
    ]
    step = progress.step("de-identifying")
    journal = target / JOURNAL
    with journal.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())
        file.flush()
        for done, row in enumerate(
            _mapped(_one, todo, workers, (secret, known, options)), start=len(kept) + 1
        ):
            kept[row["mark"]] = row
            writer.writerow(row)
            file.flush()
            step(done, len(jobs))
    ordered = [kept[mark] for _, _, mark in jobs]
    store.write_bytes(target / TABLE, _table(ordered).encode())
    journal.unlink(missing_ok=True)
    return ordered


def _earlier(target: Path) -> Iterator[dict[str, str]]:
    """Rows of a run before, finished or not; a last line that was cut off is passed over."""
    for name in (TABLE, JOURNAL):
        path = target / name
        if path.is_file():
            with path.open(newline="", errors="replace") as file:
                for row in csv.DictReader(file):
                    if set(row) == set(COLUMNS) and all(isinstance(v, str) for v in row.values()):
                        yield row


def _stands(target: Path, row: dict[str, str]) -> bool:
    return row["outcome"] == "written" and (target / row["file"]).is_file()


def _table(rows: Sequence[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_shared: tuple[Secret, Known, Options] | None = None


def _share(*given: Any) -> None:
    """Set in each process what all files share."""
    global _shared
    _shared = given  # type: ignore[assignment]


def _one(job: tuple[str, str, str, str, str]) -> dict[str, str]:
    """De-identify and write one file; its row."""
    path, kind, target, new, mark = job
    assert _shared is not None
    result = handled(Path(path), kind, new, *_shared)
    if result.content is not None:
        try:
            if isinstance(result.content, bytes):
                store.write_bytes(Path(target, new), result.content)
            else:
                with store.atomic(Path(target, new)) as partial:
                    result.content(partial)
        except OSError as error:
            result = Result(
                None, Counter(), f"cannot be written ({error.strerror}); make room or name another --out"
            )
    if result.content is None:
        Path(target, new).unlink(missing_ok=True)  # of an earlier run, before the file changed
    done = ", ".join(f"{name} {count}" for name, count in sorted(result.done.items()) if count)
    return {
        "file": new,
        "kind": kind,
        "outcome": "left out" if result.content is None else "written",
        "done": done,
        "reason": result.reason or result.warning,
        "mark": mark,
    }


def _mapped(function: Any, jobs: Sequence[Any], workers: int, shared: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Results in order; in this process where there are few."""
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(jobs) <= _FEW:
        if shared:
            _share(*shared)
        yield from map(function, jobs)
        return
    from loky import ProcessPoolExecutor

    # Started afresh, not forked: a fork of a process in which threads hold locks never wakes up. And unlike
    # the standard library's own way of starting afresh, a script that calls this needs no guard.
    pool = ProcessPoolExecutor(workers, initializer=_started, initargs=(os.getpid(), *shared))
    try:
        yield from pool.map(function, jobs, chunksize=8)
    finally:
        pool.shutdown(kill_workers=True)


def _started(parent: int, *shared: Any) -> None:
    """In each process: end with the one that started it, even where that was killed."""
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if shared:
        _share(*shared)


def _write_link(path: Path, jobs: Sequence[Job]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["original", "file"])
    writer.writerows(["/".join(entry.parts), new] for entry, new, _ in jobs)
    store.write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _told(
    target: Path, key: Path, rows: Sequence[dict[str, str]], warnings: list[str], begun: float
) -> dict[str, Any]:
    """What is returned and shown; names of files are the new ones."""
    done: Counter[str] = Counter()
    for row in rows:
        for part in row["done"].split(", ") if row["done"] else ():
            name, _, count = part.rpartition(" ")
            done[name] += int(count)
    written = [row for row in rows if row["outcome"] == "written"]
    return {
        "version": __version__,
        "out": str(target),
        "key": str(key),
        "files": len(rows),
        "written": len(written),
        "kinds": dict(sorted(Counter(row["kind"] for row in written).items())),
        "done": dict(sorted(done.items())),
        "warnings": [*warnings, *sorted({row["reason"] for row in written if row["reason"]})],
        "seconds": round(time.monotonic() - begun, 3),
        "left_out": [{"source": r["file"], "reason": r["reason"]} for r in rows if r["outcome"] != "written"],
    }
