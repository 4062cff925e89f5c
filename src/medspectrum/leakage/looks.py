"""Small grey pictures: how one lies in another, and how alike two are once they lie on each other.

Two pictures are compared by what lies between fine and coarse (noise, compression and slow shading count
for nothing), block by block, and the median block decides: writing burnt into a corner spoils few blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medspectrum.traces import unframed

SIDE = 64
BLOCKS = 4
FINE, COARSE = 0.8, 3.0
"""Gaussian widths, in pixels of the small picture, between which detail lies."""
FLAT = 0.08
"""A block whose detail is below this share of the picture's median block shows nothing to compare."""


def grey(array: np.ndarray) -> np.ndarray:
    """A plane (C, Y, X) without a drawn frame as (SIDE, SIDE) float32 of mean zero and spread one."""
    from PIL import Image as pil

    plane = np.ascontiguousarray(unframed(array.astype(np.float32).mean(axis=0)))
    how = pil.Resampling.BOX if min(plane.shape) > SIDE else pil.Resampling.BICUBIC
    small = np.asarray(pil.fromarray(plane).resize((SIDE, SIDE), how), np.float32)
    spread = float(small.std())
    return (small - small.mean()) / spread if spread > 1e-6 else np.zeros_like(small)


def turned(pictures: np.ndarray, turn: int) -> np.ndarray:
    """Pictures (..., Y, X) in one of 16 ways: quarter turns, mirrored from 4 on, inverted from 8 on."""
    made = np.rot90(pictures, turn % 4, axes=(-2, -1))
    made = made[..., ::-1] if turn % 8 >= 4 else made
    return -made if turn >= 8 else made


def turn_word(turn: int) -> str:
    """What was done to a picture, in one word or two."""
    mirrored, quarter = turn % 8 >= 4, turn % 4
    word = "mirrored" if mirrored else ("", "rotated by 90", "rotated by 180", "rotated by 270")[quarter]
    inverted = "inverted" if turn >= 8 else ""
    return ", ".join(w for w in (inverted, word) if w)


def detail(pictures: np.ndarray) -> np.ndarray:
    """(n, Y, X) without what is finer than noise and coarser than shading."""
    from scipy.ndimage import gaussian_filter

    width = [0, 1, 1]
    fine = gaussian_filter(pictures, [FINE * w for w in width], mode="nearest")
    return fine - gaussian_filter(pictures, [COARSE * w for w in width], mode="nearest")


def alike(one: np.ndarray, two: np.ndarray, *, share: float = 1 / 3) -> np.ndarray:
    """(n,) median correlation of the blocks' detail of pictures (n, Y, X) that lie on each other.

    Blocks in which either shows nothing count for nothing; a pair with less than this share
    of its blocks left is not told alike (0).
    """
    a, b = _blocks(detail(one)), _blocks(detail(two))
    power_a, power_b = np.linalg.norm(a, axis=2), np.linalg.norm(b, axis=2)
    told = _lively(power_a) & _lively(power_b)
    scores = np.einsum("nbp,nbp->nb", a, b) / np.maximum(power_a * power_b, 1e-9)
    scores = np.where(told, scores, np.nan)
    enough = told.mean(axis=1) >= share
    out = np.zeros(len(one), np.float32)
    if enough.any():
        out[enough] = np.nanmedian(scores[enough], axis=1)
    return out


def _blocks(pictures: np.ndarray) -> np.ndarray:
    n, height, width = pictures.shape
    h, w = height // BLOCKS, width // BLOCKS
    cut = pictures[:, : h * BLOCKS, : w * BLOCKS].reshape(n, BLOCKS, h, BLOCKS, w)
    flat = cut.transpose(0, 1, 3, 2, 4).reshape(n, BLOCKS * BLOCKS, h * w)
    return flat - flat.mean(axis=2, keepdims=True)


def _lively(power: np.ndarray) -> np.ndarray:
    return power > np.maximum(FLAT * np.median(power, axis=1, keepdims=True), 1e-4)


def lies_within(whole: np.ndarray, part: np.ndarray, scales: Sequence[float]) -> tuple[float, float]:
    """How alike a picture and the best place of another one are, and at which scale; both (SIDE, SIDE).

    ``part`` is shrunk to each scale and laid on every place of ``whole`` (normalised correlation by
    Fourier transform; Lewis, Vision Interface 1995), then compared in detail.
    """
    from PIL import Image as pil
    from scipy.fft import irfft2, rfft2

    best, where = -1.0, (1.0, 0, 0)
    seen = np.conj(np.asarray(rfft2(whole)))
    sums, squares = (np.pad(v.cumsum(0).cumsum(1), ((1, 0), (1, 0))) for v in (whole, whole**2))
    for scale in scales:
        side = round(SIDE * scale)
        small = np.asarray(pil.fromarray(part).resize((side, side), pil.Resampling.BOX), np.float32)
        small = small - small.mean()
        padded = np.zeros_like(whole)
        padded[:side, :side] = small
        # places that the part fits in are not reached by the wrapping of the circular correlation
        room = SIDE - side + 1
        turned_back = np.asarray(irfft2(np.conj(np.asarray(rfft2(padded)) * seen), (SIDE, SIDE)))
        found = turned_back[:room, :room]
        spread = _within(squares, side) - _within(sums, side) ** 2 / side**2
        found = found / np.sqrt(np.maximum(spread, 1e-3) * max(float((small**2).sum()), 1e-6))
        place = int(np.argmax(found))
        if found.flat[place] > best:
            best = float(found.flat[place])
            y, x = divmod(place, found.shape[1])
            where = (scale, y, x)
    scale, y, x = where
    side = round(SIDE * scale)
    cut = whole[y : y + side, x : x + side]
    again = np.asarray(pil.fromarray(part).resize((side, side), pil.Resampling.BOX), np.float32)
    return float(alike(cut[None], again[None], share=0.5)[0]), float(scale)


def _within(sums: np.ndarray, side: int) -> np.ndarray:
    """Sums over every square of that side, from sums over all that lies above and left."""
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
