"""Segmentation objects laid beside the series they refer to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from medspectrum.case import LazyImage, LeftOut, MaskTarget, label_order
from medspectrum.formats import dicom, dicom_seg


def masks(
    segmentations: Sequence[dicom_seg.SegHeader],
    volumes: Sequence[Sequence[dicom.Header]],
    left_out: list[LeftOut],
) -> tuple[dict[int, MaskTarget], list[str]]:
    """The mask of each volume by its number, and what had to be assumed.

    A segment's name stands for one label in all cases; values follow the order of names. Objects that refer
    to no volume here are listed in ``left_out``.
    """
    by_image = {h.uid: place for place, volume in enumerate(volumes) for h in volume if h.uid}
    by_series: dict[str, list[int]] = defaultdict(list)
    for place, volume in enumerate(volumes):
        by_series[volume[0].series].append(place)
    found: dict[int, list[dicom_seg.SegHeader]] = defaultdict(list)
    for one in segmentations:
        places = {by_image[uid] for uid in one.images if uid in by_image}
        if not places:
            places = {place for series in one.series for place in by_series.get(series, ())}
        if len(places) == 1:
            found[places.pop()].append(one)
        elif places:
            left_out.append(
                LeftOut(one.path, f"refers to {len(places)} volumes at once; export one object per volume")
            )
        else:
            left_out.append(
                LeftOut(one.path, "refers to a series that is not here; put its images beside it")
            )
    here = [one for objects in found.values() for one in objects]
    names = sorted({n for one in here for n in one.segments.values()}, key=label_order)
    values = tuple((name, number) for number, name in enumerate(names, 1))
    told = []
    if several := sum(len(objects) > 1 for objects in found.values()):
        told.append(
            f"{several} series have several segmentation objects, which were laid over one another in the "
            "order of their names; where they overlap the last one counts"
        )
    if overlapping := sum(one.overlap for one in here):
        told.append(
            f"{overlapping} segmentation objects have segments that overlap; where they do, the one with the "
            "higher number counts"
        )
    labels = {value: name for name, value in values}
    targets = {}
    for place, objects in found.items():
        paths = tuple(sorted(one.path for one in objects))
        images = tuple(h.path for h in volumes[place])
        source = paths[0] if len(paths) == 1 else f"{Path(paths[0]).parent}/ ({len(paths)} segmentations)"
        lazy = LazyImage(source, dicom_seg.SegRead(paths, images, values), dicom_seg.SegKey(paths, values))
        targets[place] = MaskTarget(lazy, labels)
    return targets, told
