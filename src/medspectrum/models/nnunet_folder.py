"""Networks that nnU-Net trained, from the folder that it left.

Isensee et al. 2021 (doi:10.1038/s41592-020-01008-z), its second version, as TotalSegmentator publishes its
own (Wasserthal et al. 2023, arXiv:2208.05868). The networks are built by dynamic-network-architectures,
nnU-Net's own library of them; its trainers, planners and pickles are not needed.
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from medspectrum.card import Card
from medspectrum.engine import weights_place
from medspectrum.engine.weights_file import parts_of
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import _nnunet_plans
from medspectrum.models._nnunet_plans import Plans
from medspectrum.models._weights import load_strictly
from medspectrum.registry import model

CHECKPOINT = "checkpoint_final.pth"
INSTALL = 'pip install "medspectrum[nnunet]"'


@dataclass(frozen=True)
class Trained:
    """A network with its plans. network: (n, channels, ...) -> logits (n, heads, ...), eval mode, float32.

    mirror: axes of the patch along which it saw images mirrored.
    """

    network: Any
    plans: Plans
    fold: str
    source: str
    mirror: tuple[int, ...] = ()

    def normalised(self, volume: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
        """(channels, ...) as the network learned to see it, float32, on a grid of ``plans.spacing_mm``."""
        return _nnunet_plans.normalised(self.plans, volume, inside)


def load(path: str | Path, *, configuration: str = "", fold: str = "") -> Trained:
    """The network of a trained folder, or of a folder or ``.zip`` that holds one.

    configuration: by default that in the folder's name. fold: by default the first that is there; ``all``
    or a number. A zip is unpacked beside itself once. Raises UserError (UnreadableFile) where nothing that
    is read here is found, or the weights are not those of the plans.
    """
    folder = trained_folder(Path(path).expanduser())
    plans = _nnunet_plans.read(folder, configuration)
    folds = sorted(p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{CHECKPOINT}"))
    if not folds or (fold and fold not in folds):
        raise UserError(
            f"{folder}: holds no fold_{fold or '*'}/{CHECKPOINT}; there are folds: {folds or 'none'}"
        )
    chosen = fold or folds[0]
    file = folder / f"fold_{chosen}" / CHECKPOINT
    tensors, beside = parts_of(file)
    state = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    mirror = tuple(int(axis) for axis in beside.get("inference_allowed_mirroring_axes") or ())
    return Trained(load_strictly(network(plans), state, file), plans, chosen, str(folder), mirror)


def network(plans: Plans) -> Any:
    """The network that plans describe, random. Raises UserError where its library is not installed."""
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as problem:
        raise UserError(f"networks of nnU-Net need dynamic-network-architectures: {INSTALL}") from problem
    from torch import nn

    settings = dict(plans.settings)
    for name in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if isinstance(settings.get(name), str):
            settings[name] = getattr(nn, settings[name])
    kind = getattr(unet, plans.kind)
    made = kind(
        input_channels=len(plans.channels), num_classes=plans.heads, **{**settings, "deep_supervision": False}
    )
    return made.eval()


def trained_folder(path: Path) -> Path:
    """The one folder with plans.json at or under a folder, or in a zip of it."""
    if path.suffix == ".zip":
        path = unpacked(path)
    if not path.is_dir():
        raise UnreadableFile(path, "is no folder; give the one that holds plans.json and dataset.json")
    if (path / "plans.json").exists():
        return path
    found = sorted(p.parent for p in path.glob("*/plans.json")) or sorted(
        p.parent for p in path.glob("*/*/plans.json")
    )
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise UserError(f"{path}: holds not one trained network of nnU-Net but {names}; name its folder")
    return found[0]


def unpacked(path: Path) -> Path:
    """The zip's content beside it, whole or absent."""
    target = path.with_suffix("")
    if target.is_dir():
        return target
    try:
        with zipfile.ZipFile(path) as packed, TemporaryDirectory(dir=path.parent) as space:
            inside = Path(space) / "inside"
            packed.extractall(inside)
            shutil.move(inside, target)
    except FileNotFoundError:
        raise UnreadableFile(
            path, "does not exist; give a trained folder of nnU-Net or a zip of it"
        ) from None
    except (zipfile.BadZipFile, OSError) as problem:
        raise UnreadableFile(path, f"is no whole zip ({problem}); copy it again") from problem
    return target


def _lacking(card: Card) -> str:
    from importlib.util import find_spec

    if find_spec("dynamic_network_architectures") is None:
        return f"{card.name} needs dynamic-network-architectures: {INSTALL}"
    return weights_place.lacking(card)


@model(
    "nnunet:FOLDER",
    card=Card(
        name="nnunet:FOLDER",
        level="organ-task",
        modality="any",
        organ="any",
        dims=3,
        tasks=("segment",),
        licence="that of the folder",
        commercial_use=False,
        source="a folder of yours that nnU-Net's second version trained: plans.json, dataset.json, fold_*",
        status="loads",
        parameters=0,
        width=0,
        input_size=(),
        extra="nnunet",
        citation="Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
        notes="size, spacing, normalising and labels are those of the plans",
        file_format="nnunet",
        code_licence="Apache-2.0",
    ),
    gives="network",
    shown_by="test_a_folder_of_nnu_net_answers_as_its_own_code",
)
def nnunet_folder(
    path: str | Path,
    *,
    configuration: str = "",
    fold: str = "",
    cache: Path | None = None,  # noqa: ARG001
) -> Trained:
    """A network that nnU-Net trained, from its folder."""
    return load(path, configuration=configuration, fold=fold)


RELEASE = "https://github.com/wasserth/TotalSegmentator/releases/download/v2.0.0-weights"
TOTAL = {
    "organs": ("291_TotalSegmentator_part1_organs_1559subj", 1559, (1.5, 1.5, 1.5)),
    "vertebrae": ("292_TotalSegmentator_part2_vertebrae_1532subj", 1532, (1.5, 1.5, 1.5)),
    "cardiac": ("293_TotalSegmentator_part3_cardiac_1559subj", 1559, (1.5, 1.5, 1.5)),
    "muscles": ("294_TotalSegmentator_part4_muscles_1559subj", 1559, (1.5, 1.5, 1.5)),
    "ribs": ("295_TotalSegmentator_part5_ribs_1559subj", 1559, (1.5, 1.5, 1.5)),
    "3mm": ("297_TotalSegmentator_total_3mm_1559subj", 1559, (3.0, 3.0, 3.0)),
}
"""Of version 2's task ``total``: file, patients, spacing."""

for _part, (_file, _patients, _spacing) in TOTAL.items():
    _card = Card(
        name=f"totalsegmentator-{_part}",
        level="organ-task",
        modality="CT",
        organ="any",
        dims=3,
        tasks=("segment",),
        licence="Apache-2.0",
        commercial_use=True,
        source=f"{RELEASE}/Dataset{_file}.zip",
        status="loads",
        parameters=0,
        width=0,
        input_size=(),
        extra="nnunet",
        citation="Wasserthal et al. 2023, arXiv:2208.05868",
        notes=f"voxels of {_spacing[0]} mm; size, normalising and labels are those of the plans in the file",
        weights=f"{RELEASE}/Dataset{_file}.zip",
        file_format="nnunet",
        code_licence="Apache-2.0",
        training_data=f"{_patients} CT of the TotalSegmentator data set",
        overlaps=("TotalSegmentator",),
    )

    def _total(
        path: str | Path | None = None, *, cache: Path | None = None, fold: str = "", card: Card = _card
    ) -> Trained:
        return load(path or weights_place.needed(card, cache), fold=fold)

    _total.__doc__ = f"Structures of the body outlined in CT by TotalSegmentator, part {_part}."
    _total.__name__ = f"totalsegmentator_{_part}"
    model(
        _card.name,
        card=_card,
        available=partial(_lacking, _card),
        gives="network",
        shown_by="test_a_zip_of_a_trained_folder_is_unpacked_once",
    )(_total)
