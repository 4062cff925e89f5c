"""The report in a real browser: quick to open, no request, no error, sortable."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from medspectrum import report
from tiny_exploration import explore_digits

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS_TO_OPEN = 2.0
PROBE = """<script>
addEventListener("load", function () {
  var asked = performance.getEntriesByType("resource").map(function (e) { return e.name; })
    .filter(function (n) { return n.indexOf("data:") !== 0; });
  var table = document.getElementById("results-table"), head = table.tHead.rows[0].cells[5];
  var column = function () { return Array.from(table.tBodies[0].rows)
    .map(function (r) { return Number(r.cells[5].getAttribute("data-value")); }); };
  head.querySelector("button").click(); var down = column();
  head.querySelector("button").click(); var up = column();
  var wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.documentElement.setAttribute("data-probe", JSON.stringify(
    { asked: asked, down: down, up: up, wide: wide, ms: performance.now() }));
});
</script>"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium"),
]


def browse(folder: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BROWSER), *QUIET, f"--user-data-dir={folder}", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results, predictions, thumbnails = explore_digits(digits=(3, 8), budgets=("1", "full"), draws=2)
    path = tmp_path_factory.mktemp("page") / "report.html"
    return report.write(path, results, predictions=predictions, thumbnails=thumbnails)


@pytest.mark.parametrize("width", [1400, 500])
def test_it_opens_quickly_asks_for_nothing_and_sorts(page, tmp_path, width):
    import json

    # The page admits no script but its own, so the probe's copy drops that rule; the rest is unchanged.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("</body>", PROBE + "</body>"))
    done = browse(
        tmp_path / "profile", probed, f"--window-size={width},900", "--dump-dom", "--virtual-time-budget=4000"
    )
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    told = json.loads(found[1].replace("&quot;", '"'))
    assert told["asked"] == []
    assert told["down"] == sorted(told["down"], reverse=True)
    assert told["up"] == sorted(told["up"])
    assert len(set(told["up"])) > 2
    assert told["wide"] <= 0, "the page must not scroll sideways"


def test_no_error_reaches_the_console_and_the_own_script_is_admitted(page, tmp_path):
    done = browse(tmp_path / "profile", page, "--enable-logging=stderr", "--v=0", "--dump-dom")
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert console == []
    assert '<button type="button">AUC</button>' in done.stdout


def test_it_is_drawn_within_two_seconds(page, tmp_path):
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html><title>nothing</title>")
    profile = tmp_path / "profile"
    browse(profile, empty, f"--screenshot={tmp_path / 'warm.png'}")

    def seconds(target: Path) -> float:
        started = time.perf_counter()
        done = browse(profile, target, f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1400,1200")
        assert done.returncode == 0
        return time.perf_counter() - started

    differences = sorted(seconds(page) - seconds(empty) for _ in range(3))
    assert differences[1] < SECONDS_TO_OPEN
