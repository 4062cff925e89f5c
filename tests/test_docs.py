"""Every example in the documentation and the README is run, on real images cut from the bundled data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sybil.document import Document
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

from made_identifiers import made_ct
from made_outlines import write_pairs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_generated" not in page.parts]
BUNDLED = ROOT / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
PATIENTS = 20


def run_console(example) -> None:
    """Run each ``$`` line; the lines below it have to be in what it prints.

    ``# exit code N`` at the end of a line says that it ends with N instead of 0.
    """
    source = str(example.parsed).replace("\\\n", " ")
    for block in source.split("$ ")[1:]:
        command, *expected = block.strip().split("\n")
        command, _, code = command.partition("# exit code")
        done = subprocess.run(
            [sys.executable, "-m", *_words(command)], capture_output=True, text=True, timeout=300, check=False
        )
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode == int(code or 0), f"{command}: exit code {done.returncode}: {said[-2000:]}"
        for line in expected:
            assert " ".join(line.split()) in said, f"{command}: {line!r} is not in {said[-2000:]}"


def _words(command: str) -> list[str]:
    import shlex

    words = shlex.split(command)
    assert words[0] == "medspectrum", f"examples run medspectrum only, not {words[0]}"
    return words


def keep_plan(example) -> None:
    """TOML blocks have to be TOML; each becomes the plan.toml of the examples below it."""
    tomllib.loads(str(example.parsed))
    text = str(example.parsed).replace('"linear_probe", "lora"', '"linear_probe", "knn"')
    text = text.replace("[lora]\nrank = [4, 8]", "[knn]\nneighbours = [1, 3]")
    Path("plan.toml").write_text(f"size = 64\n{text}" if text.startswith("models") else text)


PARSERS = (
    PythonCodeBlockParser(),
    CodeBlockParser("console", run_console),
    CodeBlockParser("toml", keep_plan),
)


def _write_table(folder: Path, count: int) -> None:
    """cells.csv: picture, outline, and a class by turns."""
    lines = ["image,outline,kind"]
    for n in range(count):
        name = f"p{n:03d}.png"
        lines.append(f"cells/images/{name},cells/labels/{name},{'round' if n % 2 else 'flat'}")
    (folder / "cells.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages speak of: scans by class, a table, new scans, and a finished run."""
    if not BUNDLED.is_file():
        pytest.skip(f"{BUNDLED.relative_to(ROOT)} is not there")
    folder = tmp_path_factory.mktemp("docs")
    _write_scans(folder)
    write_pairs(folder / "cells", 18)
    write_pairs(folder / "new_cells", 3)
    _write_table(folder, 18)
    _write_prompts(folder)
    made_ct(folder / "hospital" / "Zwetschkenbaum_Ottokar" / "first.dcm")
    before, cache = Path.cwd(), os.environ.get("MEDSPECTRUM_CACHE")
    os.environ["MEDSPECTRUM_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    import medspectrum

    medspectrum.explore(
        Path("scans"),
        out=Path("runs/first"),
        models="efficientnet-lite0",
        methods="majority,knn,linear_probe",
        budgets="1,5,full",
        draws=2,
        size=64,
        quiet=True,
    )
    yield folder
    os.chdir(before)
    if cache is None:
        del os.environ["MEDSPECTRUM_CACHE"]
    else:
        os.environ["MEDSPECTRUM_CACHE"] = cache


def _write_scans(folder: Path) -> None:
    """Two real pictures for each made-up patient: the source does not tell whose they are."""
    from PIL import Image

    with np.load(BUNDLED) as held:
        images, labels = held["train_images"], held["train_labels"][:, 0]
    rows = ["image,diagnosis,patient,hospital"]
    for number in range(PATIENTS):
        label = number * 2 // PATIENTS
        name = ("normal", "pneumonia")[label]
        for letter, index in zip("ab", np.flatnonzero(labels == label)[2 * number :][:2], strict=True):
            path = Path("scans", name, f"patient{number:02d}_{letter}.png")
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(folder / path)
            rows.append(f"{path},{name},P{number:02d},{('North', 'Harbour')[number % 2]}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "new_scans").mkdir()
    for index in range(4):
        Image.fromarray(images[-1 - index]).save(folder / "new_scans" / f"scan{index}.png")


def _write_prompts(folder: Path) -> None:
    """A small promptable network, and boxes and points on the new cells."""
    shutil.copy(ROOT / "tests" / "data" / "sam_tiny.pth", folder)
    (folder / "cell_boxes.csv").write_text(
        "image,x0,y0,x1,y1,label\np000.png,8,6,34,30,nucleus\np001.png,10,8,36,32,nucleus\n"
    )
    (folder / "cell_points.csv").write_text(
        "image,x,y,label\np000.png,20,18,nucleus\np000.png,30,9,nucleus\n"
    )


def examples(page: Path) -> list:
    return list(Document.parse(str(page), *PARSERS).examples())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_run(page, place):
    found = examples(page)
    if not found:
        pytest.skip("the page holds no example")
    for example in found:
        example.evaluate()


def test_the_pages_hold_examples_of_every_verb():
    from medspectrum.verbs import VERBS

    text = "\n".join(page.read_text() for page in PAGES)
    for verb in VERBS:
        assert f"$ medspectrum {verb}" in text
        assert f"settings-{verb.replace(' ', '-')}.md" in text or verb in (
            "models",
            "methods",
            "tasks",
            "datasets",
        )
    assert sum(len(examples(page)) for page in PAGES) > 20


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            str(ROOT / "docs"),
            str(tmp_path / "site"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site" / "index.html").is_file()
