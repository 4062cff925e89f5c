"""The page of an attack: what each way of asking tells, the curve of false and true alarms, the attribute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medspectrum import store
from medspectrum.report.figure import canvas, colour, svg
from medspectrum.report.page import render

NAMES = {
    "online": ("likelihood ratio", "refits with the patient against refits without"),
    "offline": ("without refitting on the patient", "refits without the patient alone"),
    "loss_threshold": ("loss alone", "how sure the answer is; one threshold for all"),
}
LOOKS = {"online": ("series-2", "-"), "offline": ("series-1", (0, (5, 2))), "loss_threshold": ("soft", ":")}
SOURCES = {"class": "the true class alone", "answers": "the predictor's answers", "features": "the features"}


def write_attacked(path: Path, results: Mapping[str, Any]) -> Path:
    """Write the page of results, as in attack.json, to ``path`` and return it."""
    predictor = results["predictor"]
    model = str(predictor["model"]).rpartition("/")[2].partition("?")[0]
    context = {
        "title": str(results["data"]["path"]).rstrip("/").rpartition("/")[2],
        "results": results,
        "found": results["membership"],
        "guessed": results["attribute"],
        "predictor": f"{str(predictor['method']).replace('_', ' ')} on {model}",
        "names": NAMES,
        "sources": SOURCES,
        "curve": _curve(results["membership"]),
        "looks": {name: tint for name, (tint, _) in LOOKS.items()},
    }
    store.write_bytes(Path(path), render("attack.html", context).encode())
    return Path(path)


def _curve(found: Mapping[str, Any]) -> str:
    """True alarms against false ones, both on a scale of tenths: few false alarms are what counts."""
    lowest = 0.5 / max(found["patients"]["learned_from"], found["patients"]["held_out"])
    with canvas(460, 380) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.plot([lowest, 1], [lowest, 1], color=colour("faint"), linewidth=1)
        for name, (tint, style) in LOOKS.items():
            own = found["curves"][name]
            axes.step(
                [max(v, lowest) for v in own["false"]],
                [max(v, lowest) for v in own["true"]],
                where="post",
                color=colour(tint),
                linestyle=style,
                linewidth=2.2 if name == "online" else 1.6,
            )
        axes.set_xlim(lowest, 1.35)
        axes.set_ylim(lowest, 1.05)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda x, _: f"{100 * x:g} %")
        axes.set_xlabel("others taken for learned from")
        axes.set_ylabel("learned from and found")
        return svg(figure, name="attack-curve", label="True against false alarms of each attack")
