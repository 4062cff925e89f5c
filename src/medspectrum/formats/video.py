"""Video files through PyAV: frames evenly spread over the whole length stand along Z."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medspectrum.errors import UnreadableFile
from medspectrum.formats.raster import flat
from medspectrum.formats.safety import check_bytes, check_pixels, remark
from medspectrum.image import Image


def read(path: Path, *, frames: int = 32) -> Image:
    """Read at most ``frames`` RGB frames, evenly spread; (3, frames, Y, X) uint8.

    The whole file is decoded once, so a damaged end is noticed; memory holds the chosen frames only.
    """
    import av
    from av.error import FFmpegError

    if frames < 1:
        raise ValueError(f"frames counts from 1; got {frames}")
    kept: list[np.ndarray] = []
    step, seen = 1, 0
    with av.open(str(path)) as opened:
        if not opened.streams.video:
            raise UnreadableFile(path, "has no video stream (sound only?)")
        stream = opened.streams.video[0]
        check_pixels(stream.codec_context.width, stream.codec_context.height, path)
        check_bytes((2 * frames, stream.codec_context.height, stream.codec_context.width, 3), 1, path)
        try:
            for frame in opened.decode(stream):
                if seen % step == 0:
                    kept.append(frame.to_ndarray(format="rgb24"))
                    if len(kept) >= 2 * frames:  # too dense for what came: keep every other one
                        kept, step = kept[::2], step * 2
                seen += 1
        except FFmpegError as error:
            if not kept:
                raise
            remark(f"breaks off after {seen} frames ({type(error).__name__}); those were read")
    if not kept:
        raise UnreadableFile(path, "holds no frame that can be decoded; it may be truncated")
    chosen = np.linspace(0, len(kept) - 1, min(frames, len(kept))).round().astype(int)
    return flat(np.moveaxis(np.stack([kept[i] for i in chosen]), -1, 0))
