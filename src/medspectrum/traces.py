"""What making a picture leaves in it, apart from what it shows: frames, markers, grey levels, compression.

None of these says anything of a patient. Where they say the class, a network may learn them instead of the
disease (Zech et al., PLOS Medicine 2018; DeGrave et al., Nature Machine Intelligence 2021).
"""

from __future__ import annotations

import numpy as np

NAMES = (
    "channels", "bytes", "top", "bottom", "left", "right", "frame_value",
    "mark_top_left", "mark_top_right", "mark_bottom_left", "mark_bottom_right",
    "lowest", "highest", "levels", "blocks", "noise", "colour",
)  # fmt: skip
GROUPS = {
    "format": ("channels", "bytes", "colour"),
    "border": ("top", "bottom", "left", "right", "frame_value"),
    "marks": ("mark_top_left", "mark_top_right", "mark_bottom_left", "mark_bottom_right"),
    "intensity": ("lowest", "highest"),
    "levels": ("levels",),
    "compression": ("blocks",),
    "noise": ("noise",),
}
FRAME_SPREAD = 0.02
"""Share of the picture's range within which the lines of a frame stay."""
STEP = 0.05
"""Step from a frame that was drawn to the picture in it, as a share of the range."""
JUMP = 0.30
"""Share of the range that writing rises above what lies two pixels on: bone and cells rise more gently."""
CORNER = 0.3


def traces(array: np.ndarray) -> np.ndarray:
    """(len(NAMES),) float32 of the middle plane of (C, Z, Y, X).

    Frame widths and marks are shares of the picture; lowest and highest are stored values; levels is the
    share of grey values between them that occur; blocks is how much steeper the picture is across the lines
    of JPEG's 8 x 8 grid (1 where it is not); noise is Immerkaer's estimate (CVIU 64, 1996) over the range.
    """
    plane = array[:, array.shape[1] // 2]
    grey = plane.astype(np.float32).mean(axis=0)
    low, high = float(grey.min()), float(grey.max())
    range_ = max(high - low, 1e-6)
    scaled = (grey - low) / range_
    frame = _frame(scaled)
    colour = float(np.abs(plane.astype(np.float32) - grey).mean() / range_) if len(plane) > 1 else 0.0
    found = [
        len(plane),
        array.dtype.itemsize * (-1 if array.dtype.kind == "f" else 1),
        *frame,
        *_marks(_inside(scaled, frame)),
        low,
        high,
        _levels(plane),
        _blocks(grey),
        _noise(scaled),
        round(min(colour, 1.0), 3),
    ]
    return np.array(found, np.float32)


def _frame(scaled: np.ndarray) -> list[float]:
    """Shares of height and width that are one even value from the edge on, and that value (-1 for none)."""
    widths, values = [], []
    for lines in (scaled, scaled[::-1], scaled.T, scaled.T[::-1]):
        value = float(np.median(lines[0]))
        even = (np.abs(lines - value) <= FRAME_SPREAD).mean(axis=1) >= 0.99
        count = len(even) if even.all() else int(np.argmin(even))
        widths.append(count / len(lines) if count > 1 else 0.0)
        values += [value] if count > 1 else []
    return [*widths, float(np.mean(values)) if values else -1.0]


def unframed(grey: np.ndarray) -> np.ndarray:
    """(Y, X) without a frame that was drawn around it: even lines, then a step; dark surroundings stay.

    All of it where less than half of a side, or of 24 pixels, would be left.
    """
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite(high - low) or high <= low:
        return grey
    scaled = (grey - low) / (high - low)
    frame = _frame(scaled)
    cuts = []
    for share, lines in zip(frame[:4], (scaled, scaled[::-1], scaled.T, scaled.T[::-1]), strict=True):
        count = round(share * len(lines))
        away = np.abs(lines[count] - lines[0]) > STEP if 0 < count < len(lines) else np.zeros(1)
        # the first line of a picture is off along nearly its whole length, that of a round cell is not
        cuts.append(count if _longest(away) >= 0.6 * lines.shape[1] else 0)
    height, width = grey.shape
    cut = grey[cuts[0] : height - cuts[1], cuts[2] : width - cuts[3]]
    left = min(cut.shape, default=0)
    return cut if left >= 24 and 2 * cut.shape[0] >= height and 2 * cut.shape[1] >= width else grey


def _longest(away: np.ndarray) -> int:
    """From the first to the last place that is off, where most between them are."""
    places = np.flatnonzero(away)
    if not len(places):
        return 0
    length = int(places[-1] - places[0]) + 1
    return length if len(places) >= 0.8 * length else 0


def _inside(scaled: np.ndarray, frame: list[float]) -> np.ndarray:
    """The picture within its frame; all of it where little would be left."""
    height, width = scaled.shape
    top, bottom, left, right = (
        round(share * side) for share, side in zip(frame[:4], (height, height, width, width), strict=True)
    )
    cut = scaled[top : height - bottom, left : width - right]
    return cut if min(cut.shape, default=0) >= 16 else scaled


def sharp(scaled: np.ndarray) -> np.ndarray:
    """Where strokes are: far brighter, or far darker, than what lies two pixels on at both sides."""
    padded = np.pad(scaled, 2, mode="edge")
    middle = padded[2:-2, 2:-2]
    found = np.zeros(middle.shape, bool)
    for one, two in (
        (padded[2:-2, :-4], padded[2:-2, 4:]),
        (padded[:-4, 2:-2], padded[4:, 2:-2]),
    ):
        found |= (middle - np.maximum(one, two) > JUMP) | (np.minimum(one, two) - middle > JUMP)
    return found


def _marks(scaled: np.ndarray) -> list[float]:
    """Share of each corner that is strokes."""
    strokes = sharp(scaled)
    h, w = (max(4, round(side * CORNER)) for side in scaled.shape)
    corners = (strokes[:h, :w], strokes[:h, -w:], strokes[-h:, :w], strokes[-h:, -w:])
    return [float(corner.mean()) for corner in corners]


def _levels(plane: np.ndarray) -> float:
    if plane.dtype.kind not in "iu":
        return -1.0
    values = np.unique(plane[0])
    room = int(values[-1]) - int(values[0]) + 1
    return len(values) / min(room, plane[0].size)


def _blocks(grey: np.ndarray) -> float:
    """Steps across lines of the 8 x 8 grid over the other steps, both ways."""
    ratios = []
    for lines in (grey, grey.T):
        steps = np.abs(np.diff(lines, axis=0)).mean(axis=1)
        if len(steps) < 24:
            continue
        on = np.arange(len(steps)) % 8 == 7
        ratios.append(float(steps[on].mean() / max(float(steps[~on].mean()), 1e-6)))
    return float(np.mean(ratios)) if ratios else 1.0


def _noise(scaled: np.ndarray) -> float:
    if min(scaled.shape) < 4:
        return 0.0
    s = scaled
    rough = (
        s[:-2, :-2] + s[:-2, 2:] + s[2:, :-2] + s[2:, 2:]
        - 2 * (s[:-2, 1:-1] + s[2:, 1:-1] + s[1:-1, :-2] + s[1:-1, 2:])
        + 4 * s[1:-1, 1:-1]
    )  # fmt: skip
    return float(np.median(np.abs(rough)))
