"""nnU-Net raw: imagesTr with a file per channel (``case_0000.nii.gz``), labelsTr, dataset.json."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from medspectrum import formats, registry
from medspectrum.case import Case, CaseSet, LeftOut, MaskTarget, Target
from medspectrum.datasets import _documents, _fake, _files
from medspectrum.errors import UserError

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def recognise(path: Path) -> float:
    """Sure where imagesTr holds files that end in a channel number."""
    folder = path / "imagesTr"
    if not path.is_dir() or not folder.is_dir():
        return 0.0
    first = _files.first_image(folder)
    if first is None or not CHANNEL.match(_files.stem(first)):
        return 0.0
    return 0.93 if (path / "dataset.json").is_file() else 0.8


def fake(folder: Path, seed: int) -> Path:
    """Four made-up patients with two channels each."""
    rng = np.random.default_rng(seed)
    for number in range(4):
        image, mask = _fake.volume(rng, _fake.CLASSES[number % 2])
        for channel in range(2):
            _fake.write_nifti(
                folder / "imagesTr" / f"made_{number:03d}_{channel:04d}.nii.gz", image * (channel + 1)
            )
        _fake.write_nifti(folder / "labelsTr" / f"made_{number:03d}.nii.gz", mask)
    document = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "front": 1, "back": 2},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


@registry.dataset("nnunet", recognise=recognise, fake=fake)
def nnunet(path: Path) -> CaseSet:
    """nnU-Net raw folders. Channels are roles, by their names in dataset.json; each case is a patient."""
    if not (path / "imagesTr").is_dir():
        raise UserError(f"{path}: has no folder imagesTr; an nnU-Net raw data set has imagesTr and labelsTr")
    document = path / "dataset.json"
    said = _documents.read(document) if document.is_file() else {}
    channels = said.get("channel_names", said.get("modality", {}))
    channels = (
        {int(k): str(v) for k, v in channels.items() if str(k).isdigit()}
        if isinstance(channels, dict)
        else {}
    )
    names = _documents.mask_names(said.get("labels"))
    left_out: list[LeftOut] = []
    cases: list[Case] = []
    for images, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        masks = {_files.stem(f): f for f in _files.images(path / labels)} if (path / labels).is_dir() else {}
        by_case: dict[str, dict[int, str]] = defaultdict(dict)
        for file in _files.images(path / images, left_out) if (path / images).is_dir() else ():
            match = CHANNEL.match(_files.stem(file))
            if match is None:
                left_out.append(LeftOut(file, "has no channel number such as _0000 at the end of its name"))
                continue
            by_case[match["case"]][int(match["channel"])] = file
        wanted = set(channels) or set().union(*by_case.values())
        for name, files in sorted(by_case.items()):
            lacking = wanted - set(files)
            if lacking:
                left_out.append(LeftOut(name, f"lacks channel {min(lacking):04d}"))
                continue
            one = len(files) == 1
            pictures = {
                "image" if one else channels.get(number, f"channel{number}"): formats.lazy(file)
                for number, file in sorted(files.items())
            }
            target: Target | None = MaskTarget(formats.lazy(masks[name]), names) if name in masks else None
            record = (
                {"modality": "+".join(channels[n] for n in sorted(files) if n in channels)}
                if channels
                else {}
            )
            cases.append(Case(name, name, pictures, target, record=record))
    warnings = () if said else ("there is no dataset.json, so channels and label values have no names",)
    return CaseSet(path.name, "nnunet", tuple(cases), tuple(left_out), warnings)
