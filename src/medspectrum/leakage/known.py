"""Which public data sets these data are taken from: by their own words, against what models learned from."""

from __future__ import annotations

import re
from pathlib import Path

MOST_BYTES = 20_000
WORDS: dict[str, str] = {
    "Medical Segmentation Decathlon": r"segmentation decathlon|medicaldecathlon|\btask\d\d_[a-z]",
    "MSD": r"segmentation decathlon|medicaldecathlon|\btask\d\d_[a-z]",
    "NIH ChestX-ray14": r"chest-?\s?x-?ray-?(8|14)\b|nih chest",
    "PadChest": r"padchest",
    "CheXpert": r"chexpert",
    "MIMIC-CXR": r"mimic-?cxr",
    "OpenI": r"\bopen-?i\b|indiana university (chest|x-?ray)",
    "RSNA pneumonia": r"rsna.{0,20}pneumonia",
    "TotalSegmentator": r"totalsegmentator",
    "TCGA": r"\btcga\b|cancer genome atlas",
    "EyePACS (Kaggle diabetic retinopathy)": r"eyepacs|kaggle.{0,20}diabetic retinopathy",
    "OCT of Kermany et al. 2018": r"octmnist|kermany.{0,60}\boct\b|\boct2017\b",
    "LUNA16": r"\bluna-?16\b",
    "TCIA LIDC": r"\blidc\b",
    "TCIA CT Colonography": r"ct colonography",
    "HNSCC": r"\bhnscc\b",
    "TCIA COVID-19": r"tcia.{0,20}covid|ct images in covid-?19",
    "BTCV": r"\bbtcv\b|multi-atlas labeling beyond",
    "AMOS": r"\bamos ?22\b",
    "WORD": r"whole abdominal organ dataset",
    "FLARE": r"\bflare ?(21|22|23|24)\b",
    "COCO": r"\bms-?coco\b|common objects in context",
}
"""Expressions by which a set is known in names, read-mes and licences; keys as in ``Card.overlaps``."""
TELLING = ("readme", "provenance", "licence", "license", "dataset.json", "citation", "about")


def known_as(path: Path, name: str = "") -> list[str]:
    """Names of ``WORDS`` that the data's name, its folders or the texts that lie beside it speak of."""
    path = Path(path).absolute()
    words = [name, *path.parts[-3:]]
    folder = path if path.is_dir() else path.parent
    for file in sorted(folder.iterdir())[:2000]:
        if file.is_file() and file.name.lower().startswith(TELLING):
            with file.open("rb") as opened:
                words.append(opened.read(MOST_BYTES).decode("utf-8", "replace"))
    text = "\n".join(words).lower()
    return [known for known, pattern in WORDS.items() if re.search(pattern, text)]
