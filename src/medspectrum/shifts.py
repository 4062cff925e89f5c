"""What another scanner, dose, lab or hand does to a picture: plain functions ``Image -> Image``.

Every shift comes at five severities, whose meaning is physical and stands in ``SHIFTS``: from what passes
unnoticed in routine to what a reader would complain about. The grid and the anatomy stay where they are, so
that masks and classes stay true. Randomness is passed in; where a shift draws something (noise, a field, a
movement), it draws the same for every severity, so that only the strength changes.

Intensities: 8-bit pictures on 0-1 by 255; CT in Hounsfield units; everything else between the 0.5 and 99.5
percentiles of the whole image. Whatever was 8-bit stays 8-bit, the rest becomes float32.

Sources: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions", ICLR 2019
(five severities); Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", MRM 34:910, 1995; Sled
et al., "A nonparametric method for automatic correction of intensity nonuniformity", IEEE TMI 17:87, 1998
(fields of 20 to 40 %); Ruifrok and Johnston, "Quantification of histochemical staining by color
deconvolution", 2001; Tellez et al., "Whole-slide mitosis detection in H&E breast histology", IEEE TMI
37:2126, 2018 (stain changes).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from medspectrum import augment, transforms
from medspectrum.case import Case, LazyImage
from medspectrum.distort import STAINS
from medspectrum.errors import UserError
from medspectrum.image import Image
from medspectrum.store import digest

VERSION = 1
"""Part of every shifted image's key: raise it whenever a function here gives other numbers."""
SEVERITIES = (1, 2, 3, 4, 5)
CT_SPAN_HU = 400.0  # a soft-tissue window: what "the range" of a CT is, where a shift speaks of one

Change = Callable[[Image, float, np.random.Generator], Image]


@dataclass(frozen=True, slots=True)
class Shift:
    """One kind of shift. strengths: at severity 1 to 5, in ``unit``; meaning: what the number says."""

    name: str
    change: Change
    strengths: tuple[float, float, float, float, float]
    unit: str
    meaning: str


def values_of(image: Image) -> tuple[np.ndarray, float, float]:
    """Float32 intensities, and the (offset, span) that bring them to 0-1: (x - offset) / span."""
    array = image.array
    if array.dtype == np.uint8:
        return array.astype(np.float32), 0.0, 255.0
    finite = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if image.modality == "CT" and float(finite.min()) < 0:
        return finite, 0.0, CT_SPAN_HU
    low, high = transforms.finite_range(array)
    return finite, low, max(high - low, 1e-6)


def like(image: Image, values: np.ndarray) -> Image:
    """The image with other intensities, 8-bit where it was."""
    if image.array.dtype == np.uint8:
        values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return Image(values.astype(np.uint8 if values.dtype == np.uint8 else np.float32, copy=False),
                 image.affine, image.modality, image.spacing_known)  # fmt: skip


def _on_unit(change: Callable[[np.ndarray], np.ndarray], image: Image) -> Image:
    """Change intensities that were brought to 0-1, and bring them back."""
    values, offset, span = values_of(image)
    return like(image, change((values - offset) / span) * span + offset)


def _longer_side(image: Image) -> int:
    return max(image.size[1:])


def noise(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """White Gaussian noise, a share of the range; of MR in the magnitude of a complex signal (Rician)."""
    values, offset, span = values_of(image)
    sigma = strength * span
    if image.modality == "MR":
        real, imaginary = (rng.standard_normal(values.shape, np.float32) * sigma for _ in range(2))
        floor = min(offset, float(values.min()))
        return like(image, np.hypot(values - floor + real, imaginary) + floor)
    return like(image, values + rng.standard_normal(values.shape, np.float32) * sigma)


def dose(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Quantum noise of fewer photons: its variance grows with the signal; ``strength`` is sigma at white."""

    def fewer(unit: np.ndarray) -> np.ndarray:
        signal = np.sqrt(np.maximum(unit, 0.0))
        return unit + rng.standard_normal(unit.shape, np.float32) * (strength * signal)

    return _on_unit(fewer, image)


def speckle(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Multiplicative noise with a grain of about a pixel, as of coherent ultrasound."""
    from scipy.ndimage import gaussian_filter

    def grained(unit: np.ndarray) -> np.ndarray:
        grain = rng.standard_normal(unit.shape, np.float32)
        grain = gaussian_filter(grain, (0, 0, 0.7, 0.7))
        return unit * np.maximum(1 + strength * grain / max(float(grain.std()), 1e-6), 0.0)

    return _on_unit(grained, image)


def blur(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Out of focus, or a softer kernel: Gaussian whose sigma is a share of the longer side, in the plane."""
    from scipy.ndimage import gaussian_filter

    values, _, _ = values_of(image)
    sigma = strength * _longer_side(image)
    return like(image, gaussian_filter(values, (0, 0, sigma, sigma), mode="nearest"))


def resolution(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Fewer pixels by ``strength`` per side; in a volume thicker slices by as much. The grid stays."""
    from scipy.ndimage import zoom

    values, _, _ = values_of(image)
    size = values.shape[1:]
    axes = (transforms.through_plane_axis(image) - 1,) if image.is_volume else (1, 2)
    z, y, x = (max(1, round(n / strength)) if i in axes else n for i, n in enumerate(size))
    coarse = [transforms.area_resize(channel, (z, y, x)) for channel in values]
    factor = [n / m for n, m in zip(size, (z, y, x), strict=True)]
    made = [np.asarray(zoom(c, factor, order=1, mode="nearest", grid_mode=True)) for c in coarse]
    return like(image, np.stack(made))


def contrast(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Flatter: differences from the mean are multiplied by ``strength``."""
    values, _, _ = values_of(image)
    mean = values.mean(axis=(1, 2, 3), keepdims=True)
    return like(image, (values - mean) * strength + mean)


def gamma(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Darker mid-tones: intensities on 0-1 to the power of ``strength``."""
    return _on_unit(lambda unit: np.clip(unit, 0.0, None) ** strength + np.minimum(unit, 0.0), image)


def response(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Another detector curve, steep in the middle: x - a sin(2 pi x) / (2 pi), monotone for a < 1."""

    def curved(unit: np.ndarray) -> np.ndarray:
        bent = unit - strength * np.sin(2 * np.pi * np.clip(unit, 0, 1)) / (2 * np.pi)
        return bent.astype(np.float32)

    return _on_unit(curved, image)


def offset_hu(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """CT numbers too high by ``strength`` HU, as of a scanner whose water calibration has drifted."""
    values, _, _ = values_of(image)
    return like(image, values + strength)


def bias_field(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """A smooth multiplicative field, polynomial of third degree: from 1 / (1 + s/2) to about 1 + s/2."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in image.size), indexing="ij")
    z, y, x = axes
    terms = [z**i * y**j * x**k for i in range(4) for j in range(4) for k in range(4) if 0 < i + j + k < 4]
    field = sum(w * t for w, t in zip(rng.normal(size=len(terms)), terms, strict=True))
    field = np.asarray(field) - np.mean(field)
    field = (field / max(float(np.abs(field).max()), 1e-9) * np.log1p(strength / 2)).astype(np.float32)
    return _on_unit(lambda unit: unit * np.exp(field), image)


def motion(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """The patient moves while phase-encoding lines (rows of k-space) are read: three moves of ``strength``.

    The centre of k-space is read before the first move, so that the picture stays where it was.
    """
    values, _, _ = values_of(image)
    rows = values.shape[2]
    order = np.argsort(np.abs(np.fft.fftfreq(rows)), kind="stable")
    starts = np.sort(rng.integers(max(1, rows // 8), rows, size=3))
    way = rng.choice([-1.0, 1.0], size=3) * rng.uniform(0.5, 1.0, size=3) * strength * rows
    shift = np.zeros(rows)
    for start, step in zip(starts, way, strict=True):
        shift[order[start:]] += step
    spectrum = np.fft.fft(values, axis=2)
    turned = np.exp(-2j * np.pi * np.fft.fftfreq(rows) * shift)[:, None]
    return like(image, np.abs(np.fft.ifft(spectrum * turned, axis=2)).astype(np.float32))


def ghosting(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Every fourth phase-encoding line is weaker by ``strength``: faint copies along the rows."""
    values, _, _ = values_of(image)
    weaker = np.ones((values.shape[2], 1))
    weaker[4::4] -= strength
    found = np.fft.ifft(np.fft.fft(values, axis=2) * weaker, axis=2).real
    return like(image, found.astype(np.float32))


def jpeg(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Compressed by JPEG at that quality and read again; 16-bit pictures by way of 8 bits."""
    from PIL import Image as Picture

    values, offset, span = values_of(image)
    bytes_ = np.clip(np.rint((values - offset) / span * 255), 0, 255).astype(np.uint8)
    made = np.empty_like(bytes_)
    for z in range(bytes_.shape[1]):
        plane = np.moveaxis(bytes_[:, z], 0, -1)
        grey = plane.shape[-1] != 3
        for c in range(plane.shape[-1] if grey else 1):
            held = io.BytesIO()
            shown = np.ascontiguousarray(plane[..., c] if grey else plane)
            Picture.fromarray(shown).save(held, "JPEG", quality=int(strength))
            read = np.asarray(Picture.open(held))
            if grey:
                made[c, z] = read
            else:
                made[:, z] = np.moveaxis(read, -1, 0)
    return like(image, made.astype(np.float32) / 255 * span + offset)


def stain(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Another lab's stain: haematoxylin denser by ``strength``, eosin thinner by as much.

    In optical densities of the three stains. A quarter as much is drawn for each picture, for no two slides
    of a lab are alike. Pictures without colour are given back as they came.
    """
    if image.array.shape[0] != 3:
        return image

    def restained(unit: np.ndarray) -> np.ndarray:
        vectors = np.array(STAINS)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        density = -np.log(np.clip(unit, 1 / 255, 1.0)).reshape(3, -1).T
        amounts = density @ np.linalg.inv(vectors)
        way = np.array([1.0, -1.0, 0.0]) + 0.25 * rng.uniform(-1, 1, size=3)
        amounts *= np.maximum(1 + strength * way, 0.05)
        return np.exp(-(amounts @ vectors)).T.reshape(unit.shape).astype(np.float32)

    return _on_unit(restained, image)


def white_balance(image: Image, strength: float, rng: np.random.Generator) -> Image:  # noqa: ARG001
    """Another lamp or camera: red stronger and blue weaker by ``strength``."""
    if image.array.shape[0] != 3:
        return image
    gains = np.array([1 + strength, 1.0, 1 - strength], np.float32)[:, None, None, None]
    return _on_unit(lambda unit: unit * gains, image)


_Row = tuple[Change, tuple[float, float, float, float, float], str, str]


def _table(*rows: _Row) -> dict[str, Shift]:
    made = [Shift(getattr(row[0], "__name__", ""), *row) for row in rows]
    return {shift.name: shift for shift in made}


SHIFTS = _table(
    (noise, (0.02, 0.04, 0.08, 0.12, 0.18), "of the range",
     "standard deviation of white noise"),
    (dose, (0.016, 0.032, 0.05, 0.08, 0.13), "of white", "quantum noise of about 4000 to 60 photons a pixel"),
    (speckle, (0.1, 0.2, 0.3, 0.45, 0.6), "of the signal", "standard deviation of multiplicative grain"),
    (blur, (0.002, 0.004, 0.007, 0.011, 0.016), "of the longer side", "sigma of a Gaussian"),
    (resolution, (1.5, 2.0, 3.0, 4.0, 6.0), "times", "larger pixels, or thicker slices of a volume"),
    (contrast, (0.85, 0.7, 0.55, 0.4, 0.3), "times", "what is left of differences from the mean"),
    (gamma, (1.2, 1.4, 1.7, 2.1, 2.6), "power", "exponent of intensities on 0-1"),
    (response, (0.15, 0.3, 0.5, 0.7, 0.9), "amplitude", "bend of the detector's curve"),
    (offset_hu, (5.0, 10.0, 20.0, 35.0, 50.0), "HU", "CT numbers that read too high"),
    (bias_field, (0.2, 0.4, 0.6, 0.9, 1.2), "peak to peak", "unevenness of the receive field"),
    (motion, (0.01, 0.015, 0.02, 0.03, 0.04), "of the field of view", "each of three moves during the scan"),
    (ghosting, (0.1, 0.2, 0.35, 0.5, 0.7), "of the signal", "loss of every fourth line of k-space"),
    (jpeg, (60.0, 40.0, 25.0, 15.0, 8.0), "quality", "JPEG quality"),
    (stain, (0.1, 0.2, 0.35, 0.5, 0.7), "of the density", "more haematoxylin and less eosin"),
    (white_balance, (0.05, 0.1, 0.18, 0.27, 0.4), "of the gain", "more red and less blue"),
)  # fmt: skip

_ANY = ("noise", "blur", "resolution", "contrast", "gamma")
_BY_CODE: dict[str, tuple[str, ...]] = {
    "CT": ("noise", "blur", "resolution", "offset_hu"),
    "MR": ("noise", "blur", "resolution", "contrast", "bias_field", "motion", "ghosting"),
    "US": ("speckle", "blur", "resolution", "contrast", "gamma", "jpeg"),
    **dict.fromkeys(
        augment.RADIOGRAPHS, ("dose", "blur", "resolution", "contrast", "gamma", "response", "jpeg")
    ),
    **dict.fromkeys(augment.ANY_WAY_UP, (*_ANY, "jpeg", "stain", "white_balance")),
}  # fmt: skip


def shifts_for(modality: str, *, colour: bool, volume: bool) -> tuple[str, ...]:
    """Names of the shifts that pictures of this kind meet.

    modality: a DICOM code; where it says nothing, what pictures without one may meet.
    """
    found = _BY_CODE.get(modality.upper())
    if found is None:
        found = _ANY if volume else (*_ANY, "response", "jpeg")
        found = (*found, "stain", "white_balance") if colour else found
    return tuple(n for n in found if not (volume and n == "jpeg"))


def chosen(names: str, modality: str, *, colour: bool, volume: bool) -> tuple[str, ...]:
    """Shifts named by the user, ``none``, or where empty those that fit. UserError for an unknown name."""
    asked = tuple(dict.fromkeys(n.strip() for n in names.split(",") if n.strip()))
    if asked == ("none",):
        return ()
    unknown = [n for n in asked if n not in SHIFTS]
    if unknown:
        raise UserError(f"there is no shift {unknown[0]!r}; there are {', '.join(SHIFTS)}, and none")
    return asked or shifts_for(modality, colour=colour, volume=volume)


def severities_of(text: str) -> tuple[int, ...]:
    """``"1,3,5"`` as numbers. Raises UserError for anything but 1 to 5."""
    words = [w.strip() for w in str(text).split(",") if w.strip()]
    if not words or any(w not in map(str, SEVERITIES) for w in words):
        raise UserError(f"severities are whole numbers from 1 to 5, separated by commas; got {text!r}")
    return tuple(sorted({int(w) for w in words}))


def apply(image: Image, name: str, severity: int, rng: np.random.Generator) -> Image:
    """The image after that shift."""
    shift = SHIFTS[name]
    return shift.change(image, shift.strengths[severity - 1], rng)


def _read(lazy: LazyImage, name: str, severity: int, seed: int) -> Image:
    drawn = int(digest("shift", VERSION, lazy.key(), name, seed)[:12], 16)
    return apply(lazy.load(), name, severity, np.random.default_rng(drawn))


def shifted(cases: Sequence[Case], name: str, severity: int, *, seed: int = 0) -> list[Case]:
    """The cases with all their images shifted when they are read; targets and everything else stay."""
    from dataclasses import replace

    def of(lazy: LazyImage) -> LazyImage:
        return LazyImage(
            f"{lazy.source}#{name}-{severity}",
            partial(_read, lazy, name, severity, seed),
            partial(digest, "shifted", VERSION, lazy.key(), name, severity, seed),
        )

    return [replace(case, images={role: of(lazy) for role, lazy in case.images.items()}) for case in cases]
