"""Bad volumes and bad masks: a sentence for each, the rest goes on; through describe, explore and predict."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medspectrum
from made_dicom import write_series
from made_outlines import volume
from medspectrum import formats, store
from medspectrum.case import Case, LazyImage, MaskTarget
from medspectrum.datasets import load
from medspectrum.errors import UserError
from medspectrum.formats.resampled import load_resampled
from medspectrum.formats.safety import remarks
from medspectrum.image import Image, shear_degrees
from medspectrum.labelmap import LabelMap
from medspectrum.metrics.segmentation import segmentation_scores
from medspectrum.predictor import NO_MODEL, save_predictor
from medspectrum.registry import find
from medspectrum.tasks.segment import Segment
from tiny_encoder import tiny_encoder

AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])
SINGULAR = np.diag([1.0, 0.0, 2.5, 1.0])


def put(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """(Z, Y, X) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    good = np.linalg.det(affine[:3, :3]) != 0
    content = bytearray(nibabel.Nifti1Image(array.T, affine if good else AFFINE).to_bytes())
    if not good:  # what nibabel does not write
        content[280:328] = affine[:3].astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def pair(folder: Path, name: str, seed: int, **changed) -> None:
    """An image and its mask; ``mask`` and ``mask_affine``, ``image`` and ``affine`` replace what is right."""
    values, labels = volume(seed)
    image = changed.get("image", values.astype(np.int16))
    affine = changed.get("affine", AFFINE)
    put(folder / "images" / f"{name}.nii.gz", image, affine)
    put(folder / "labels" / f"{name}.nii.gz", changed.get("mask", labels), changed.get("mask_affine", affine))


def fractions() -> np.ndarray:
    return volume(0)[1].astype(np.float32) / 2


def with_nan() -> np.ndarray:
    mask = volume(0)[1].astype(np.float32)
    mask[mask == 0] = np.nan
    return mask


def four_channels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (2, *volume(0)[1].shape)).astype(np.uint8)


BAD_MASKS = {
    "shape": ({"mask": volume(0)[1][:, :30]}, "has the shape 6 x 30 x 44, its image"),
    "spacing": ({"mask_affine": np.diag([1.0, 1.0, 3.0, 1.0])}, "spacing or direction"),
    "turned": (
        {"mask_affine": np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])},
        "spacing or direction",
    ),
    "elsewhere": (
        {"mask_affine": np.array([[1, 0, 0, 40.0], [0, 1, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])},
        "lies 40.0 mm away",
    ),
    "placeless": ({"mask_affine": SINGULAR}, "which way round it lies"),
    "fractions": ({"mask": fractions()}, "holds fractions"),
    "nan": ({"mask": with_nan()}, "holds NaN"),
    "channels": ({"mask": four_channels()}, "a mask has one channel, this has 2"),
    "negative": (
        {"mask": volume(0)[1].astype(np.int16) - 1},
        "holds the value -1, which is none of the labels",
    ),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Ten good pairs, one bad mask of each kind, an empty mask, and a file cut short."""
    place = tmp_path_factory.mktemp("bad")
    for number in range(10):
        pair(place / "data", f"good{number}", number)
    for number, (name, (changed, _)) in enumerate(BAD_MASKS.items()):
        pair(place / "data", name, 20 + number, **changed)
    pair(place / "data", "nothing", 50, mask=np.zeros_like(volume(50)[1]))
    pair(place / "data", "torn", 51)
    torn = place / "data" / "images" / "torn.nii.gz"
    torn.write_bytes(torn.read_bytes()[:400])
    return place


def test_describe_names_every_bad_mask_and_why(bad):
    facts = medspectrum.describe(bad / "data", cache=bad / "cache")
    unfit = {Path(one["source"]).name.split(".")[0]: one["reason"] for one in facts["masks"]["unfit"]}
    assert set(unfit) == set(BAD_MASKS)
    for name, (_, words) in BAD_MASKS.items():
        assert words in unfit[name]
        assert "\n" not in unfit[name]
        assert len(unfit[name]) < 400
    assert facts["masks"]["empty"] == ["images/nothing.nii.gz"]
    assert facts["masks"]["labels"] == {"1": 10, "2": 10}
    assert [Path(one["source"]).name for one in facts["unreadable"]] == ["torn.nii.gz"]
    assert any("9 of 20 masks cannot be used" in words for words in facts["warnings"])
    assert any("masks mark nothing (first images/nothing.nii.gz)" in words for words in facts["warnings"])
    again = medspectrum.describe(bad / "data", cache=bad / "cache")
    assert again["masks"] == facts["masks"]
    assert again["decoded"] == 1  # the torn one is tried again


@pytest.mark.slow
def test_explore_and_predict_go_on_without_what_is_bad(bad):
    quick = {"cache": bad / "cache", "quiet": True}
    results = medspectrum.explore(
        bad / "data", out=bad / "out", task="segment", models=tiny_encoder(bad / "cache"), size=64,
        methods="mean_mask,dense_probe", budgets="full", draws=1, **quick,
    )  # fmt: skip
    reasons = " ".join(one["reason"] for one in results["left_out"])
    assert len(results["left_out"]) == len(BAD_MASKS) + 1
    for _, words in BAD_MASKS.values():
        assert words in reasons
    assert sum(part["cases"] for part in results["split"].values()) == 11
    told = medspectrum.predict(bad / "out" / "predictor", bad / "data" / "images", out=bad / "masks", **quick)
    assert told["cases"] == 20
    assert [Path(one["source"]).name for one in told["left_out"]] == ["torn.nii.gz"]
    for path in (bad / "masks").glob("*.nii.gz"):
        image, mask = formats.read(bad / "data" / "images" / path.name), formats.read(path)
        assert mask.size == image.size
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """A predictor that needs no encoder, handed over as a run does."""
    place = tmp_path_factory.mktemp("predictor")
    for number in range(3):
        pair(place / "data", f"a{number}", number)
    cases = load(place / "data").cases
    task = Segment.of(cases)
    made = find("method", "mean_mask").thing(None, cases, task, seed=0)
    save_predictor(
        place / "predictor",
        made,
        {"method": "mean_mask", "model": NO_MODEL, "model_key": "", "size": None, "task": "segment",
         "task_settings": task.settings()},
    )  # fmt: skip
    return place / "predictor"


STRANGE = {
    "anisotropic": {"affine": np.diag([0.4, 0.4, 9.0, 1.0])},
    "flipped": {"affine": np.array([[-1.0, 0, 0, 43], [0, -1, 0, 35], [0, 0, -2.5, 12], [0, 0, 0, 1]])},
    "oblique": {
        "affine": np.array([[0.8, -0.6, 0, 3], [0.6, 0.8, 0, 4], [0, 0, 2.5, 5], [0, 0, 0, 1]]),
    },
    "sheared": {"affine": np.array([[1.0, 0, 0, 3], [0, 1, 0.8, 4], [0, 0, 2.5, 5], [0, 0, 0, 1]])},
    "one_slice": {"image": volume(0)[0][:1].astype(np.int16)},
    "one_column": {"image": volume(0)[0][:, :, :1].astype(np.int16)},
    "one_row": {"image": volume(0)[0][:, :1].astype(np.int16)},
    "one_voxel": {"image": volume(0)[0][:1, :1, :1].astype(np.int16)},
    "nan": {"image": np.where(volume(0)[1] > 0, volume(0)[0], np.nan).astype(np.float32)},
    "times": {"image": np.stack([volume(n)[0] for n in range(5)]).astype(np.int16)},
    "placeless": {"affine": SINGULAR},
    "constant": {"image": np.full((6, 36, 44), 7, np.int16)},
}


@pytest.mark.parametrize("name", sorted(STRANGE))
def test_strange_volumes_are_predicted_on_their_own_grid(tmp_path, predictor, name):
    given = STRANGE[name]
    image = given.get("image", volume(1)[0].astype(np.int16))
    path = put(tmp_path / "in" / f"{name}.nii.gz", image, given.get("affine", AFFINE))
    told = medspectrum.predict(
        predictor, tmp_path / "in", out=tmp_path / "out", cache=tmp_path / "cache", quiet=True
    )
    assert told["left_out"] == []
    found = nibabel.load(next((tmp_path / "out").iterdir()))
    asked = nibabel.load(path)
    assert found.shape == asked.shape[:3]
    if name != "placeless":
        np.testing.assert_allclose(found.affine, asked.affine, atol=1e-5)
    facts = medspectrum.describe(tmp_path / "in", cache=tmp_path / "cache")
    said = " ".join(facts["warnings"])
    words = {
        "nan": "holds NaN or infinite values",
        "times": "holds 5 volumes along further axes",
        "placeless": "has an affine that places nothing",
        "constant": "shows one value only",
    }
    assert words.get(name, "") in said
    if name in ("nan", "times", "placeless"):
        assert path.name in said


@pytest.mark.parametrize("name", ["one_slice", "one_column", "one_row", "one_voxel", "times", "oblique"])
def test_strange_volumes_are_seen_by_an_encoder(tmp_path, name):
    """Planes of every size go through a real, if small, network and come back as maps of the volume."""
    from medspectrum.models import local_file

    given = STRANGE[name]
    image = given.get("image", volume(1)[0].astype(np.int16))
    labels = np.zeros(image.shape[-3:], np.uint8)
    labels[..., : max(1, labels.shape[-1] // 2)] = 1
    put(tmp_path / "images" / "a.nii.gz", image, given.get("affine", AFFINE))
    put(tmp_path / "labels" / "a.nii.gz", labels, given.get("affine", AFFINE))
    cases = load(tmp_path).cases
    task = Segment.of(cases)
    assert task.lacking(cases[0]) == ""
    encoder = local_file.tiny(cache=tmp_path / "cache")
    learned = find("method", "dense_probe").thing(encoder, cases, task, seed=0)
    (found,) = learned.predict(cases)
    assert found.shape == labels.shape


def test_one_bad_volume_does_not_end_a_prediction(tmp_path, predictor):
    put(tmp_path / "in" / "good.nii.gz", volume(1)[0])
    torn = put(tmp_path / "in" / "torn.nii.gz", volume(2)[0])
    torn.write_bytes(torn.read_bytes()[:500])
    nothing = np.full((4, 5, 6), np.nan, np.float32)
    put(tmp_path / "in" / "nothing.nii.gz", nothing)
    told = medspectrum.predict(
        predictor, tmp_path / "in", out=tmp_path / "out", cache=tmp_path / "cache", quiet=True
    )
    assert told["cases"] == 1
    assert {Path(x["source"]).name for x in told["left_out"]} == {"torn.nii.gz", "nothing.nii.gz"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["good.nii.gz", "left_out.csv"]
    (tmp_path / "in" / "good.nii.gz").unlink()
    with pytest.raises(UserError, match="none of"):
        medspectrum.predict(predictor, tmp_path / "in", out=tmp_path / "o", cache=tmp_path / "c", quiet=True)


def test_a_qform_counts_where_the_sform_places_nothing(tmp_path):
    made = nibabel.Nifti1Image(volume(0)[0].T, AFFINE)
    made.set_qform(AFFINE, code=1)
    content = bytearray(made.to_bytes())
    content[280:328] = SINGULAR[:3].astype("<f4").tobytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(content)))
    assert np.linalg.det(nibabel.load(path).header.get_sform()[:3, :3]) == 0
    image = formats.read(path)
    assert image.spacing_known
    np.testing.assert_allclose(image.affine, AFFINE)
    np.testing.assert_allclose(load_resampled(path).affine, AFFINE)


def tilt(degrees: float = 20.0) -> np.ndarray:
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.deg2rad(degrees))
    return affine


def test_a_tilted_gantry_is_told_and_its_series_keeps_its_place(tmp_path):
    image = Image(volume(3)[0][None].astype(np.int16), tilt(), "CT")
    write_series(tmp_path / "ct", image)
    case = load(tmp_path).cases[0]
    with remarks() as said:
        found = case.images["image"].load()
    assert "gantry tilted by 20 degrees" in said[0]
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
    assert shear_degrees(found.affine) == pytest.approx(20, abs=0.1)
    facts = medspectrum.describe(tmp_path, cache=tmp_path / "cache")
    assert any("gantry tilted" in words for words in facts["warnings"])


def held(image: Image, name: str) -> LazyImage:
    return LazyImage(name, lambda: image, lambda: store.digest(name))


def test_distances_on_a_tilted_grid_are_those_of_the_patient():
    """The same bodies on a straight and on a tilted grid of fine voxels: the same distances in mm."""

    def body(affine: np.ndarray, radius: float, shift: float) -> np.ndarray:
        z, y, x = np.indices((40, 90, 60))
        points = np.stack([x, y, z], -1) @ affine[:3, :3].T + affine[:3, 3]
        away = np.linalg.norm(points - [30, 45, 17 + shift], axis=-1)
        return (away < radius).astype(np.uint8)

    straight = np.diag([1.0, 1.0, 1.0, 1.0])
    tilted = straight.copy()
    tilted[1, 2] = np.tan(np.deg2rad(25))
    tilted[1, 3] = -20 * tilted[1, 2]
    scores = []
    for affine in (straight, tilted):
        truth, found = body(affine, 12, 0), body(affine, 12, 6)
        case = Case(
            "c", "p", {"image": held(Image(truth[None], affine), "i")},
            MaskTarget(held(Image(truth[None], affine), "m"), {1: "ball"}),
        )  # fmt: skip
        table = Segment(["ball"], [1]).score([LabelMap.of(found)], [case], resamples=0)["scores"]
        scores.append({name: table[name]["value"] for name in ("dice", "hd95_mm", "assd_mm", "nsd")})
    assert scores[1]["dice"] == pytest.approx(scores[0]["dice"], abs=0.01)
    assert scores[1]["hd95_mm"] == pytest.approx(scores[0]["hd95_mm"], abs=0.5)
    assert scores[1]["assd_mm"] == pytest.approx(scores[0]["assd_mm"], abs=0.2)
    truth, found = body(tilted, 12, 0), body(tilted, 12, 6)
    naive = segmentation_scores(found, truth, [1], spacing_mm=Image(truth[None], tilted).spacing_mm)[1]
    assert abs(naive["assd_mm"] - scores[0]["assd_mm"]) > abs(scores[1]["assd_mm"] - scores[0]["assd_mm"])


def test_missing_slices_are_told_with_how_far_off_they_put_things(tmp_path):
    image = Image(volume(3)[0][None].astype(np.int16), np.diag([-1.0, -1.0, 2.5, 1.0]), "CT")
    write_series(tmp_path / "ct", image, skip=[2])
    facts = medspectrum.describe(tmp_path, cache=tmp_path / "cache")
    said = [words for words in facts["warnings"] if "uneven gaps" in words]
    assert len(said) == 1
    assert "2.50 to 5.00 mm" in said[0]
    assert "ct/" in said[0]
    assert "up to 1.2 mm off" in said[0] or "up to 1.3 mm off" in said[0]


def test_masks_that_are_all_empty_are_told(tmp_path):
    for number in range(3):
        pair(tmp_path, f"a{number}", number, mask=np.zeros_like(volume(0)[1]))
    facts = medspectrum.describe(tmp_path, cache=tmp_path / "cache")
    assert "at least one label above 0" in facts["masks"]["unfit"][0]["reason"]
    with pytest.raises(UserError, match="at least one label above 0"):
        Segment.of(load(tmp_path).cases)


def test_a_label_that_the_table_does_not_know_is_left_out(tmp_path):
    for number in range(2):
        values, labels = volume(number)
        labels = np.where(labels == 2, 7, labels) if number else labels
        put(tmp_path / "imagesTr" / f"a{number}.nii.gz", values)
        put(tmp_path / "labelsTr" / f"a{number}.nii.gz", labels.astype(np.uint8))
    told = {
        "name": "made",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "core", "2": "ring"},
        "training": [
            {"image": f"./imagesTr/a{n}.nii.gz", "label": f"./labelsTr/a{n}.nii.gz"} for n in range(2)
        ],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(told))
    facts = medspectrum.describe(tmp_path, cache=tmp_path / "cache")
    (one,) = facts["masks"]["unfit"]
    assert one["source"].endswith("a1.nii.gz")
    assert "holds the value 7, which is none of the labels (1, 2)" in one["reason"]
    assert facts["masks"]["labels"] == {"core": 1, "ring": 1}
