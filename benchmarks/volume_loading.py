"""Loading one volume: read, turn to RAS, resample, scale and crop, beside MONAI's Compose and TorchIO.

    python benchmarks/volume_loading.py [--side 256] [--rounds 5] [--save]

A made int16 volume of 256^3 voxels (smooth structures with grain, 0.9 x 0.9 x 1.25 mm, stored LPS) is written
gzipped and plain. Every way gives the same grid: 1 x 1 x 1.5 mm, RAS, values -200...300 to 0...1, the
middle 128 x 128 x 96; ``whole`` is the same without the crop. In each round all ways run one after the other,
files in the page cache; a ratio is the median over rounds of the ratio in the same round. What differs from
MONAI's values is reported with it. TorchIO's grid keeps the volume's extent instead of voxel 0, so that its
values are of shifted places and are not compared.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from measurement import save
from medspectrum.formats.resampled import load_resampled

SPACING_XYZ = (1.0, 1.0, 1.5)
CROP_XYZ = (128, 128, 96)
WINDOW = (-200.0, 300.0)
TARGET = 6.0


def write(folder: Path, side: int) -> dict[str, Path]:
    """The made volume, gzipped and plain, as nibabel writes them."""
    import nibabel
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.standard_normal((side, side, side), dtype=np.float32), 4)
    values = smooth * (250 / smooth.std()) + 15 * rng.standard_normal(smooth.shape, dtype=np.float32)
    values = np.clip(values, -1000, 2000).astype(np.int16)
    values[: side // 8] = -1000  # air, as there is around a body
    image = nibabel.Nifti1Image(values, np.diag([-0.9, -0.9, 1.25, 1.0]))
    paths = {"gzipped": folder / "made.nii.gz", "plain": folder / "made.nii"}
    for path in paths.values():
        nibabel.save(image, path)
    return paths


def monai_way(crop: bool):
    from monai.transforms import (
        CenterSpatialCropd,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
    )

    steps = [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        Spacingd("image", pixdim=SPACING_XYZ, mode="bilinear", padding_mode="border"),
        ScaleIntensityRanged("image", *WINDOW, 0, 1, clip=True),
    ]
    compose = Compose([*steps, CenterSpatialCropd("image", CROP_XYZ)] if crop else steps)
    return lambda path: compose({"image": path})["image"].numpy().transpose(0, 3, 2, 1)


def monai_lazy_way(crop: bool):
    """The same with MONAI's lazy resampling, which resamples once, the crop included."""
    from monai.transforms import (
        CenterSpatialCropd,
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
    )

    steps = [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        Spacingd("image", pixdim=SPACING_XYZ, mode="bilinear", padding_mode="border", dtype=np.float32),
        *([CenterSpatialCropd("image", CROP_XYZ)] if crop else []),
        ScaleIntensityRanged("image", *WINDOW, 0, 1, clip=True),
    ]
    compose = Compose(steps, lazy=True)
    return lambda path: compose({"image": path})["image"].numpy().transpose(0, 3, 2, 1)


def torchio_way(crop: bool):
    import torchio

    steps = [
        torchio.ToCanonical(),
        torchio.Resample(SPACING_XYZ, image_interpolation="linear"),
        torchio.RescaleIntensity((0, 1), in_min_max=WINDOW),
    ]
    compose = torchio.Compose([*steps, torchio.CropOrPad(CROP_XYZ)] if crop else steps)
    return lambda path: compose(torchio.ScalarImage(path)).numpy().transpose(0, 3, 2, 1)


def our_way(crop: bool):
    return lambda path: (
        load_resampled(
            path, spacing_mm=SPACING_XYZ[::-1], window=WINDOW, crop=CROP_XYZ[::-1] if crop else None
        ).array
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--side", type=int, default=256)
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--save", action="store_true")
    given = ask.parse_args()
    warnings.simplefilter("ignore")
    makers = {
        "monai": monai_way,
        "monai lazy": monai_lazy_way,
        "torchio": torchio_way,
        "medspectrum": our_way,
    }
    result: dict[str, object] = {"side": given.side, "rounds": given.rounds, "target_times_monai": TARGET}
    with tempfile.TemporaryDirectory() as name:
        paths = write(Path(name), given.side)
        result["megabytes"] = {kind: round(p.stat().st_size / 1e6, 1) for kind, p in paths.items()}
        for kind, path in paths.items():
            for extent, crop in (("crop", True), ("whole", False)):
                ways = {way: make(crop) for way, make in makers.items()}
                found = {way: run(path) for way, run in ways.items()}  # also warms up
                seconds: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(given.rounds):
                    for way, run in ways.items():
                        start = time.perf_counter()
                        run(path)
                        seconds[way].append(time.perf_counter() - start)
                base = np.array(seconds["monai"])
                rows = {
                    way: {
                        "milliseconds": round(1e3 * float(np.median(s)), 1),
                        "times_monai": round(float(np.median(base / np.array(s))), 2),
                        "shape": list(found[way].shape),
                    }
                    for way, s in seconds.items()
                }
                for way in ("monai lazy", "medspectrum"):
                    if found[way].shape == found["monai"].shape:
                        rows[way]["largest_difference_to_monai"] = float(
                            np.abs(found[way] - found["monai"]).max()
                        )
                result[f"{kind}, {extent}"] = rows
                print(f"{kind}, {extent}", json.dumps(rows, indent=1), flush=True)
    if given.save:
        save("volume_loading", result)


if __name__ == "__main__":
    main()
