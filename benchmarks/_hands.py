"""What a hand may do to a picture that comes back under another name, for ``planted_leaks.py``."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

Hand = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(io.BytesIO(held.getvalue())).convert(picture.mode)


def sized(picture: Image.Image, factor: float) -> Image.Image:
    side = (max(8, round(picture.width * factor)), max(8, round(picture.height * factor)))
    return picture.resize(side, Image.Resampling.LANCZOS)


def through(picture: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    values = change(np.asarray(picture, np.float32) / 255)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def cropped(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    w, h = picture.size
    return picture.crop((round(w * left), round(h * top), round(w * right), round(h * bottom)))


def written(picture: Image.Image, text: str = "R 12") -> Image.Image:
    made = picture.copy()
    fill = 255 if made.mode == "L" else (255,) * 3
    ImageDraw.Draw(made).text(
        (made.width * 0.03, made.height * 0.03), text, fill=fill, font_size=max(7, made.height // 8)
    )
    return made


def framed(picture: Image.Image, share: float) -> Image.Image:
    return ImageOps.expand(picture, round(min(picture.size) * share), fill=0)


def grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L")


HANDS: dict[str, Hand] = {
    "renamed": lambda p, _: p,
    "mirrored": lambda p, _: ImageOps.mirror(p),
    "upside down": lambda p, _: ImageOps.flip(p),
    "rotated by 90": lambda p, _: p.transpose(Image.Transpose.ROTATE_90),
    "rotated by 180": lambda p, _: p.transpose(Image.Transpose.ROTATE_180),
    "rotated by 270": lambda p, _: p.transpose(Image.Transpose.ROTATE_270),
    "transposed": lambda p, _: p.transpose(Image.Transpose.TRANSPOSE),
    "JPEG 80": lambda p, _: jpeg(p, 80),
    "JPEG 30": lambda p, _: jpeg(p, 30),
    "half the size": lambda p, _: sized(p, 0.5),
    "larger": lambda p, _: sized(p, 1.7),
    "stretched": lambda p, _: p.resize((round(p.width * 1.3), p.height), Image.Resampling.BICUBIC),
    "brighter": lambda p, _: through(p, lambda v: 0.7 * v + 0.25),
    "less contrast": lambda p, _: through(p, lambda v: 0.4 * (v - 0.5) + 0.5),
    "gamma 0.5": lambda p, _: through(p, lambda v: v**0.5),
    "gamma 2": lambda p, _: through(p, lambda v: v**2),
    "equalised": lambda p, _: ImageOps.equalize(p),
    "inverted": lambda p, _: ImageOps.invert(p),
    "blurred": lambda p, _: p.filter(ImageFilter.GaussianBlur(min(p.size) / 120)),
    "noisy": lambda p, rng: through(p, lambda v: v + rng.normal(0, 0.03, v.shape)),
    "cropped by 5 %": lambda p, _: cropped(p, 0.05, 0.0, 1.0, 0.95),
    "cropped to 85 %": lambda p, _: cropped(p, 0.1, 0.05, 0.95, 0.9),
    "cropped to 70 %": lambda p, _: cropped(p, 0.12, 0.18, 0.82, 0.88),
    "framed": lambda p, _: framed(p, 0.08),
    "written on": lambda p, _: written(p),
    "mirrored, JPEG 50": lambda p, _: jpeg(ImageOps.mirror(p), 50),
    "rotated, inverted, smaller": lambda p, _: sized(
        ImageOps.invert(p.transpose(Image.Transpose.ROTATE_90)), 0.7
    ),
    "cropped, brighter, JPEG 60": lambda p, _: jpeg(
        through(cropped(p, 0.08, 0.08, 0.98, 0.98), lambda v: 0.8 * v + 0.1), 60
    ),
}
"""The hands, by name."""
