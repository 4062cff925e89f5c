"""Which column of a table is what: by the names that hospitals and public data sets use."""

from __future__ import annotations

import string
from collections.abc import Sequence

from medspectrum.errors import UserError

NAMES: dict[str, tuple[str, ...]] = {
    "label": (
        "label", "labels", "class", "classes", "target", "y", "diagnosis", "dx", "finding",
        "findings", "findinglabels", "category", "outcome", "groundtruth", "gt", "pathology", "result",
    ),
    "patient": (
        "patient", "patientid", "patientids", "patients", "pid", "patientnumber", "patientno",
        "subject", "subjectid", "subjects", "mrn", "person", "personid", "case_patient", "patid",
        "ptid", "participantid",
    ),
    "centre": (
        "centre", "center", "centreid", "centerid", "hospital", "hospitalid", "institution",
        "institutionname", "site", "siteid", "location", "clinic", "inst",
    ),
    "split": ("split", "set", "subset", "partition", "datasplit"),
    "id": ("id", "case", "caseid", "uid", "imageid", "studyid", "key"),
    "reader": (
        "reader", "readerid", "rater", "raterid", "annotator", "annotatorid", "observer",
        "radiologist",
    ),
    "mask": ("mask", "maskpath", "segmentation", "seg", "segpath", "labelmap", "maskfile"),
}  # fmt: skip
ENDINGS = {
    "label": ("_class", "_label", "_diagnosis"),
    "patient": ("_patient", "patient_id"),
    "centre": (),
    "split": (),
}
IMAGE_NAMES = (
    "image", "imagepath", "images", "path", "imagefile", "file", "filepath", "filename", "imagefilename",
    "img", "imgpath", "imageindex", "imagename", "scan", "scanpath", "dicom", "dicompath", "dicomfile",
    "slide", "video",
)  # fmt: skip


def plain(name: str) -> str:
    """Lower case, letters and digits only."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def guess(role: str, columns: Sequence[str]) -> str | None:
    """The column whose name says the role; the most usual name wins."""
    by_plain = {plain(column): column for column in reversed(columns)}
    for word in NAMES[role]:
        if plain(word) in by_plain:
            return by_plain[plain(word)]
    for ending in ENDINGS.get(role, ()):
        for column in columns:
            if column.lower().endswith(ending):
                return column
    return None


def chosen(role: str, given: str | None, columns: Sequence[str], source: object) -> str | None:
    """The column that was named, or guessed. Raises UserError where the named one is missing."""
    if given is None:
        return guess(role, columns)
    if given == "":
        return None
    if given not in columns:
        near = [column for column in columns if plain(column) == plain(given)]
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{source}: has no column {given!r} for {role}; it has {', '.join(columns)}{hint}")
    return given


def template_fields(template: str, columns: Sequence[str], source: object) -> list[str]:
    """The columns that ``{site}/{id:0>3}.png`` names. Raises UserError for anything but plain columns."""
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise UserError(f"image pattern {template!r} cannot be understood ({error})") from error
    for field in fields:
        if field not in columns:
            raise UserError(
                f"{source}: image pattern {template!r} names no column {field!r}; "
                f"there are {', '.join(columns)}"
            )
    return fields
