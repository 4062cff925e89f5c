"""Medical Segmentation Decathlon: a ``dataset.json`` that lists images and label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from medspectrum import formats, registry
from medspectrum.case import Case, CaseSet, LeftOut, MaskTarget
from medspectrum.datasets import _documents, _fake, _files
from medspectrum.errors import UserError


def recognise(path: Path) -> float:
    """Sure where dataset.json lists its training cases."""
    document = path / "dataset.json" if path.is_dir() else path
    if document.name != "dataset.json" or not document.is_file():
        return 0.0
    return 0.95 if "training" in _documents.keys(document) else 0.0


def fake(folder: Path, seed: int) -> Path:
    """Four made-up volumes with masks, and one without."""
    rng = np.random.default_rng(seed)
    training = []
    for number in range(4):
        image, mask = _fake.volume(rng, _fake.CLASSES[number % 2])
        name = f"made_{number:03d}.nii.gz"
        _fake.write_nifti(folder / "imagesTr" / name, image)
        _fake.write_nifti(folder / "labelsTr" / name, mask)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    _fake.write_nifti(folder / "imagesTs" / "made_100.nii.gz", _fake.volume(rng, "dark")[0])
    document = {
        "name": "Made",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "front", "2": "back"},
        "training": training,
        "test": ["./imagesTs/made_100.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    return folder


@registry.dataset("msd", recognise=recognise, fake=fake)
def msd(path: Path) -> CaseSet:
    """Medical Segmentation Decathlon. Each volume is a patient; test volumes come without a target."""
    document = path / "dataset.json" if path.is_dir() else path
    said = _documents.read(document)
    folder = document.parent
    if not isinstance(said.get("training"), list):
        raise UserError(
            f"{document}: lists no training cases; a Decathlon dataset.json has training and test"
        )
    names = _documents.mask_names(said.get("labels"))
    modality = said.get("modality")
    words = (
        "+".join(str(value) for value in modality.values())
        if isinstance(modality, dict)
        else str(modality or "")
    )
    record = {"modality": words} if words else {}
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    for entry in [*said["training"], *said.get("test", [])]:
        image = entry.get("image") if isinstance(entry, dict) else entry
        label = entry.get("label") if isinstance(entry, dict) else None
        found = _documents.inside(folder, str(image))
        masked = _documents.inside(folder, str(label)) if label else None
        if found is None or (label and masked is None):
            left_out.append(LeftOut(str(image or label), "points out of the data set's folder"))
            continue
        missing = next((p for p in (found, masked) if p is not None and not p.exists()), None)
        if missing is not None:
            left_out.append(LeftOut(str(missing), "file named in dataset.json is not there"))
            continue
        target = MaskTarget(formats.lazy(masked), names) if masked is not None else None
        name = _files.stem(found)
        cases.append(Case(name, name, {"image": formats.lazy(found)}, target, record=record))
    return CaseSet(str(said.get("name") or folder.name), "msd", tuple(cases), tuple(left_out))
