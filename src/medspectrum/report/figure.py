"""The look of every plot: one palette for light and dark, SVG with text as text, tooltips by ``<title>``.

Colours are written by matplotlib as the palette's light values and then turned into CSS variables, so
that one drawing follows the reader's colour scheme. The series colours start from the palette of Okabe
and Ito (2008), which readers with any common colour vision can tell apart; line styles and marker
shapes say the same a second time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from matplotlib.figure import Figure

PALETTE = {
    "page": ("#f7f6f3", "#12161b"),
    "card": ("#fffffe", "#1a1f26"),
    "ink": ("#1c2530", "#e7eaee"),
    "soft": ("#55606e", "#a9b3bf"),
    "faint": ("#7c8693", "#808b98"),
    "line": ("#e2e0da", "#2e363f"),
    "grid": ("#eceae5", "#262d35"),
    "accent": ("#15639c", "#74b9ee"),
    "accent-soft": ("#e4eff7", "#1d3346"),
    "warn": ("#8a5200", "#f2b866"),
    "warn-soft": ("#fdf3e1", "#33281a"),
    "bad": ("#a8201a", "#ff9089"),
    "bad-soft": ("#fcebe9", "#3a1f1e"),
    "good": ("#0b6e4f", "#58cfa5"),
    "good-soft": ("#e3f3ed", "#17332a"),
    "control": ("#8d949d", "#78828d"),
    "series-1": ("#0072b2", "#56b4e9"),
    "series-2": ("#d55e00", "#ff9350"),
    "series-3": ("#009e73", "#33cfa2"),
    "series-4": ("#b5528b", "#e79ac6"),
    "series-5": ("#a88400", "#e8c53a"),
    "series-6": ("#4b3aa8", "#a99cf5"),
    "series-7": ("#2b9aa8", "#74d7e3"),
    "series-8": ("#7a4b1e", "#cfa074"),
}
SERIES = 8
MARGINS_PX = (62, 14, 50, 12)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "h", "*")
STYLES = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
MARKER_PATHS = {
    "o": "M8 3.2a4.8 4.8 0 1 0 .01 0z",
    "s": "M3.6 3.6h8.8v8.8H3.6z",
    "^": "M8 2.8 13.4 12.6H2.6z",
    "D": "M8 2.2 13.8 8 8 13.8 2.2 8z",
    "v": "M8 13.2 13.4 3.4H2.6z",
    "P": "M6 2.5h4V6h3.5v4H10v3.5H6V10H2.5V6H6z",
    "X": "M5.2 2.5 8 5.3l2.8-2.8 2.7 2.7L10.7 8l2.8 2.8-2.7 2.7L8 10.7l-2.8 2.8-2.7-2.7L5.3 8 2.5 5.2z",
    "p": "M8 2.6 13.5 6.6 11.4 13H4.6L2.5 6.6z",
    "h": "M8 2.4 12.9 5.2v5.6L8 13.6 3.1 10.8V5.2z",
    "*": "M8 1.8 9.7 6.2l4.7.2-3.7 2.9 1.3 4.6L8 11.3l-4 2.6 1.3-4.6L1.6 6.4l4.7-.2z",
}


def colour(name: str) -> str:
    """The light value of a palette name, for matplotlib."""
    return PALETTE[name][0]


def css_variables(*, dark: bool) -> str:
    """The palette as CSS custom properties."""
    return " ".join(f"--{name}: {values[dark]};" for name, values in PALETTE.items())


@contextmanager
def canvas(width: int, height: int) -> Iterator[Figure]:
    """An empty figure of that many CSS pixels in the house's style; closes with its context.

    Margins are fixed, which is twice as quick as a layout that measures its words.
    Text is never read as mathematics: a class may be called ``$x$``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 12,
        "axes.labelsize": 12,
        "xtick.labelsize": 11.5,
        "ytick.labelsize": 11.5,
        "axes.edgecolor": colour("line"),
        "axes.labelcolor": colour("soft"),
        "text.color": colour("ink"),
        "xtick.color": colour("soft"),
        "ytick.color": colour("soft"),
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colour("grid"),
        "grid.linewidth": 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "path.simplify": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width / 72, height / 72))
        left, right, bottom, top = MARGINS_PX
        figure.subplots_adjust(
            left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height
        )
        yield figure


def svg(figure: Figure, *, name: str, label: str, titles: Mapping[str, str] | None = None) -> str:
    """The figure as one ``<svg>`` element for a page.

    name: unique on the page; it keeps the ids of drawings apart. label: what a screen reader says.
    titles: tooltip by the gid of the artist.
    """
    import matplotlib
    from defusedxml.ElementTree import fromstring

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.id": None}):
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    root = fromstring(text[text.index("<svg") :])
    return _finish(root, label=label, titles=titles or {})


def _finish(root: Element, *, label: str, titles: Mapping[str, str]) -> str:
    """Drop what a page does not need, set the tooltips, turn colours into variables."""
    from xml.etree import ElementTree

    space = "{http://www.w3.org/2000/svg}"
    link = "{http://www.w3.org/1999/xlink}href"
    for metadata in root.findall(f"{space}metadata"):
        root.remove(metadata)
    for defs in list(root.findall(f"{space}defs")):
        for style in defs.findall(f"{space}style"):
            defs.remove(style)
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for v in e.attrib.values())))
    for element in root.iter():
        element.tag = element.tag.removeprefix(space)
        own = element.attrib.get("id")
        if own is not None and own in titles:
            title = ElementTree.Element("title")
            title.text = titles[own]
            element.insert(0, title)
            element.set("class", "mark")
        if own is not None and own not in used:
            del element.attrib["id"]
        if link in element.attrib:
            element.set("href", element.attrib.pop(link))
        style = element.attrib.get("style")
        if style:
            element.set("style", _themed(style))
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.clear()
    root.set("viewBox", f"0 0 {width} {height}")
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", f"width:{float(width):.0f}px")
    return ElementTree.tostring(root, encoding="unicode")


_VARIABLE = {light: f"var(--{name})" for name, (light, _) in PALETTE.items()}


def _themed(style: str) -> str:
    """Palette colours become CSS variables, and the page's font replaces the drawing's."""
    style = re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLE.get(found[0], found[0]), style)
    style = re.sub(r"font-family: [^;]*;? ?", "", style)
    return re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;]*", _font, style)


def _font(found: re.Match[str]) -> str:
    """The shorthand of older drawing libraries in the words of the newer ones."""
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"
