"""Burnt-in text of DICOM objects and pictures, blanked in the stored pixels.

Where a series of frames is long, text is looked for in the brightest and the darkest value that each pixel
takes over eight frames, since lettering stands still. Frames are decoded only for looking; an object is
written uncompressed, with its values outside of the boxes unchanged, only where something was blanked.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np

from medspectrum.deid import lettering
from medspectrum.deid.lettering import Box
from medspectrum.errors import UnreadableFile

_FEW_FRAMES, _TOGETHER = 4, 8
_LEAST_PIXELS = 24
_NO_PICTURES = frozenset(("SEG", "RTDOSE", "REG", "RTSTRUCT", "RTPLAN", "SR", "RWV"))
_QUALITY = 95


def blanked(data: Any, shown: str, *, text: bool) -> Counter[str]:
    """Blank in place what stands outside of an ultrasound's regions and, where asked, lettering; what was
    done.

    Raises UnreadableFile where pixels have to be looked at and cannot be decoded.
    """
    from pydicom.pixels.utils import pixel_array

    done: Counter[str] = Counter()
    if "PixelData" not in data or str(data.get("Modality") or "") in _NO_PICTURES:
        return done
    high, wide, count = int(data.Rows), int(data.Columns), int(data.get("NumberOfFrames") or 1)
    if int(data.get("BitsAllocated") or 0) == 1 or min(high, wide) < _LEAST_PIXELS:
        return done
    regions = _regions(data, wide, high)
    if not text and not regions:
        return done
    try:
        values = pixel_array(data)
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds
        raise UnreadableFile(shown, f"has pixels that cannot be decoded ({type(error).__name__})") from None
    several = int(data.get("SamplesPerPixel") or 1)
    frames = values.reshape(count, high, wide, several)
    coloured = str(data.get("PhotometricInterpretation") or "") == "PALETTE COLOR"
    boxes = found_in(_looks(_in_colour(data, frames) if coloured else frames)) if text else []
    outside = np.zeros((high, wide), bool)
    if regions:
        outside[:] = True
        for x0, y0, x1, y1 in regions:
            outside[y0:y1, x0:x1] = False
    hidden = outside.copy()
    for x0, y0, x1, y1 in boxes:
        hidden[y0:y1, x0:x1] = True
    black = _black(data, frames)
    if not hidden.any() or bool((frames[:, hidden] == black).all()):
        return done
    new = frames.copy()
    new[:, hidden] = black
    _store(data, new.reshape(values.shape))
    done["text blanked"] += len(boxes)
    done["outside of regions blanked"] += bool(outside.any())
    return +done


def found_in(looks: list[np.ndarray]) -> list[Box]:
    """Boxes of text over several views of one picture, those inside of others left out."""
    boxes = {box for look in looks for box in lettering.text_boxes(look)}
    inside = {b for b in boxes for a in boxes if a != b and _holds(a, b)}
    return sorted(boxes - inside)


def _holds(outer: Box, inner: Box) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]


def _regions(data: Any, wide: int, high: int) -> list[Box]:
    """The regions of an ultrasound picture that hold data (PS3.3 C.8.5.5), as far as its header tells."""
    found = []
    for item in data.get("SequenceOfUltrasoundRegions") or ():
        try:
            x0, y0 = int(item.RegionLocationMinX0), int(item.RegionLocationMinY0)
            x1, y1 = int(item.RegionLocationMaxX1) + 1, int(item.RegionLocationMaxY1) + 1
        except (AttributeError, TypeError, ValueError):
            return []
        if not (0 <= x0 < x1 and 0 <= y0 < y1):
            return []
        found.append((x0, y0, min(x1, wide), min(y1, high)))
    return found


def _looks(frames: np.ndarray) -> list[np.ndarray]:
    """Pictures (Y, X, 3) of uint8 in which text of any frame shows."""
    if len(frames) <= _FEW_FRAMES:
        shown = list(frames)
    else:
        parts = [frames[start : start + _TOGETHER] for start in range(0, len(frames), _TOGETHER)]
        shown = [part.max(axis=0) for part in parts] + [frames.min(axis=0)]
    return [look for frame in shown for look in eight_bits(frame)]


def eight_bits(frame: np.ndarray) -> list[np.ndarray]:
    """(Y, X) or (Y, X, C) of any values as (Y, X, 3) of uint8; twice where few lie far above."""
    values = frame.reshape(*frame.shape[:2], -1)
    if values.dtype == np.uint8 and values.shape[-1] >= 3:
        return [np.ascontiguousarray(values[..., :3])]
    grey = np.nan_to_num(values[..., 0].astype(np.float32))
    low, high = (float(v) for v in np.percentile(grey, (0.5, 99.8)))
    ends = [(low, high)]
    if float(grey.max()) > high + 0.2 * (high - low) or high <= low:
        ends.append((float(grey.min()), float(grey.max())))
    scaled = [np.clip((grey - a) / max(b - a, 1e-6), 0, 1) * 255 for a, b in ends if b > a]
    return [np.repeat(s.astype(np.uint8)[..., None], 3, axis=2) for s in scaled]


def _black(data: Any, frames: np.ndarray) -> Any:
    """The stored value that is shown black, or the picture's darkest."""
    kind = str(data.get("PhotometricInterpretation") or "")
    if kind == "MONOCHROME1":
        return frames.max()
    if kind == "PALETTE COLOR":
        used = np.unique(frames)
        return used[_in_colour(data, used.reshape(1, 1, -1, 1)).sum(axis=-1).argmin()]
    return frames.min() if frames.shape[-1] == 1 else np.zeros(frames.shape[-1], frames.dtype)


def _in_colour(data: Any, frames: np.ndarray) -> np.ndarray:
    """(N, Y, X, 3) of uint8 for indices into the object's palette."""
    from pydicom.pixels.processing import apply_color_lut

    colours = apply_color_lut(frames[..., 0], data)[..., :3]
    return colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)


def _store(data: Any, values: np.ndarray) -> None:
    """Write values back, uncompressed; the object's UIDs stay as they are."""
    kind = str(data.get("PhotometricInterpretation") or "MONOCHROME2")
    kind = "RGB" if int(data.get("SamplesPerPixel") or 1) == 3 else kind
    data.set_pixel_data(values, kind, int(data.BitsStored), generate_instance_uid=False)
    if not data.file_meta.TransferSyntaxUID.is_little_endian:
        data.PixelData = values.astype(values.dtype.newbyteorder(">")).tobytes()


def picture(whole: bytes, kind: str, shown: str) -> tuple[bytes, int]:
    """A PNG or JPEG with its lettering blanked, and how many boxes; the same bytes where there is none.

    Raises UnreadableFile where it cannot be decoded, or has several pictures.
    """
    from PIL import Image

    from medspectrum.formats.safety import check_pixels

    try:
        with Image.open(io.BytesIO(whole)) as image:
            check_pixels(image.width, image.height, shown)
            if getattr(image, "n_frames", 1) > 1:
                raise UnreadableFile(shown, "holds several pictures; save each as a file of its own")
            image.load()
    except UnreadableFile:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds
        raise UnreadableFile(shown, f"has pixels that cannot be decoded ({type(error).__name__})") from None
    if min(image.size) < _LEAST_PIXELS:
        return whole, 0
    grey = image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F")
    seen = image.convert("L") if image.mode in ("1", "LA") else image if grey else image.convert("RGB")
    boxes = found_in(eight_bits(np.asarray(seen)))
    if not boxes:
        return whole, 0
    dark = {"RGBA": (0, 0, 0, 255), "CMYK": (0, 0, 0, 255), "LA": (0, 255)}
    black = dark.get(image.mode, 0)
    if image.mode == "P":
        black = int(np.asarray(image.getpalette("RGB")).reshape(-1, 3).sum(axis=1).argmin())
    for box in boxes:
        image.paste(black, box)  # type: ignore[arg-type]
    held = io.BytesIO()
    settings: dict[str, Any] = {"quality": _QUALITY, "exif": image.getexif()} if kind == "JPEG" else {}
    if kind == "PNG" and "transparency" in image.info:
        settings["transparency"] = image.info["transparency"]
    if image.info.get("dpi"):
        settings["dpi"] = image.info["dpi"]
    image.save(held, kind, **settings)
    return held.getvalue(), len(boxes)


def refuse_lettered_tiff(path: Any, shown: str) -> None:
    """Raises UnreadableFile where a page of an untiled TIFF shows text; slides have it on pages that go."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            for page in file.pages:
                tagged = {tag.code for tag in page.tags}  # type: ignore[union-attr]
                if 322 in tagged or min(page.shape[:2]) < _LEAST_PIXELS:  # type: ignore[union-attr]
                    continue
                words = str(getattr(page, "description", "") or "")
                if words.startswith("Aperio"):
                    continue
                values = page.asarray()
                values = (
                    values
                    if values.ndim == 2 or values.shape[-1] in (3, 4)
                    else values.reshape(-1, *values.shape[-2:])[0]
                )
                if found_in(eight_bits(values)):
                    raise UnreadableFile(
                        shown, "shows text in its pixels; save it as PNG, of which text can be blanked"
                    )
    except UnreadableFile:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds
        raise UnreadableFile(shown, f"has pixels that cannot be decoded ({type(error).__name__})") from None
