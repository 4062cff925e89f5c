"""The page of models says of each row what its test shows; a package from outside adds a row."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from medspectrum import registry

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import rows  # noqa: E402 - of the documentation, see above


def test_every_row_has_a_line_that_says_what_shows_it():
    entries = dict(registry.entries("model"))
    text = rows.page(entries)
    sections = {s: text.split(f"### {t} (")[1].split("### ")[0] for s, t in rows.TITLES.items()}
    for name, entry in entries.items():
        card = entry.facts["card"]
        [line] = [x for x in sections[card.status].splitlines() if x.startswith(f"| `{name}` |")]
        assert card.licence in line
        told = rows.FIXTURES / name / "meta.json"
        if card.status == "card":
            assert card.why in line
        elif card.status == "conforms" and told.exists():
            assert json.loads(told.read_text())["original"] in line
            assert (rows.FIXTURES / name / "shapes.json.gz").exists()
        elif card.status == "loads" and (published := entry.facts.get("published")) and published.library:
            package = rows.PACKAGES.get(published.library, published.library)
            assert f"{package} {version(package)}" in line
        elif entry.facts.get("shown_by"):
            assert entry.facts["shown_by"] in line
    for status, title in rows.TITLES.items():
        count = sum(e.facts["card"].status == status for e in entries.values())
        assert f"### {title} ({count})" in text


def test_the_page_is_made_when_the_documentation_is_built():
    conf = (ROOT / "docs" / "conf.py").read_text()
    assert "rows.page(" in conf
    assert "_generated/rows.md" in (ROOT / "docs" / "models.md").read_text()


def test_a_package_from_outside_adds_a_row(tmp_path):
    """The package of the documentation, built and installed into a folder of its own."""
    text = (ROOT / "docs" / "adding.md").read_text().split("## A model from outside")[1].split("\n## ")[0]
    blocks = re.findall(r"```(toml|py)\n(.*?)```", text, re.DOTALL)
    [project], [code] = ([b for kind, b in blocks if kind == k] for k in ("toml", "py"))
    assert project.count("\n") + code.count("\n") < 40
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "pyproject.toml").write_text(project)
    (tmp_path / "source" / "grey_means.py").write_text(code)
    installing = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run(
        [*installing, "--target", str(tmp_path / "there"), str(tmp_path / "source")],
        check=True,
        capture_output=True,
    )
    asking = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import json, numpy as np, torch, medspectrum\n"
        "from medspectrum.image import Image\n"
        "from medspectrum.models import resolve\n"
        "[row] = medspectrum.models('grey-means')\n"
        "encoder = resolve('grey-means', cache=sys.argv[2])\n"
        "picture = Image(np.full((1, 1, 64, 64), 255, np.uint8), spacing_known=False)\n"
        "given = torch.from_numpy(encoder.prepare(picture)[None])\n"
        "print(json.dumps([row['licence'], row['missing'], encoder.network()(given)[0].tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asking, str(tmp_path / "there"), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    licence, missing, features = json.loads(done.stdout)
    assert (licence, missing) == ("Apache-2.0", "")
    assert features == [1.0] * 64
