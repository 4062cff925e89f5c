"""The verb ``segment``: prompts of every kind become masks on the images' own grids; bad ones are named."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

import made_boxes
import made_detectors
import made_outlines
import medspectrum
from medspectrum import formats
from medspectrum.errors import UnreadableFile, UserError
from medspectrum.models import sam, text_boxes
from medspectrum.prompted import pixels_of, window_of

TINY = Path(__file__).parent / "data" / "sam_tiny.pth"
BOXES = {"p000": [(5, 6, 30, 28, "cell"), (20, 10, 40, 34, "debris")], "p001": [(8, 8, 36, 30, "cell")]}


@pytest.fixture(scope="module")
def network():
    return sam.load(TINY)


@pytest.fixture
def pictures(tmp_path):
    made_outlines.write_pairs(tmp_path / "made", 3)
    return tmp_path / "made" / "images"


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def boxes_csv(folder: Path) -> Path:
    rows = [
        {"image": f"{name}.png", "x0": a, "y0": b, "x1": c, "y1": d, "label": label}
        for name, boxes in BOXES.items()
        for a, b, c, d, label in boxes
    ]
    return write_csv(folder / "boxes.csv", rows)


def run(images, tmp_path, **settings):
    return medspectrum.segment(images, model=TINY, out=tmp_path / "out", quiet=True, **settings)


def plane_of(path: Path) -> np.ndarray:
    return formats.read(path).array[0, 0]


def test_boxes_give_masks_named_as_the_images(pictures, tmp_path, network):
    result = run(pictures, tmp_path, boxes=boxes_csv(tmp_path))
    assert result["labels"] == {"cell": 1, "debris": 2}
    assert [row["file"] for row in result["images"]] == ["p000.png", "p001.png"]
    assert (result["not_spoken_of"], result["left_out"], result["outlines"]) == (1, [], 3)
    for name, boxes in BOXES.items():
        picture = pixels_of(formats.read(pictures / f"{name}.png"))[:, 0]
        seen = sam.embed(network, picture)
        asked = [sam.Prompt(box=np.array(b[:4], float)) for b in boxes]
        answers = sorted(sam.outline(network, seen, asked), key=lambda a: a.score)
        expected = np.zeros(made_outlines.SIZE, np.uint8)
        for answer in answers:  # where outlines overlap the surer one counts
            expected[answer.mask] = {"cell": 1, "debris": 2}[boxes[answer.place][4]]
        assert np.array_equal(plane_of(tmp_path / "out" / f"{name}.png"), expected)
        assert expected.any()
    assert json.loads((tmp_path / "out" / "segmentation.json").read_text()) == result
    row = result["images"][0]["outlines"][1]
    assert row["label"] == "debris"
    assert row["box"] == [20, 10, 40, 34]
    assert row["voxels"] > 0


def test_coco_voc_and_csv_say_the_same(pictures, tmp_path):
    result = run(pictures, tmp_path, boxes=boxes_csv(tmp_path))
    names = sorted(BOXES)
    coco = {
        "images": [{"id": i, "file_name": f"{n}.png"} for i, n in enumerate(names)],
        "categories": [{"id": 4, "name": "cell"}, {"id": 9, "name": "debris"}],
        "annotations": [
            {
                "id": len(names) * i + j,
                "image_id": i,
                "category_id": {"cell": 4, "debris": 9}[label],
                "bbox": [a, b, c - a, d - b],
            }
            for i, n in enumerate(names)
            for j, (a, b, c, d, label) in enumerate(BOXES[n])
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    for name in names:
        things = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{a + 1}</xmin><ymin>{b + 1}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for a, b, c, d, label in BOXES[name]
        )
        note = f"<annotation><filename>{name}.png</filename>{things}</annotation>"
        (tmp_path / "voc" / "Annotations" / f"{name}.xml").write_text(note)
    before = {n: plane_of(tmp_path / "out" / f"{n}.png") for n in names}
    for given in (tmp_path / "boxes.json", tmp_path / "voc"):
        again = run(pictures, tmp_path, boxes=given)
        assert again["labels"] == result["labels"]
        for name in names:
            assert np.array_equal(plane_of(tmp_path / "out" / f"{name}.png"), before[name])


def test_the_command_does_the_same(pictures, tmp_path):
    given = boxes_csv(tmp_path)
    words = ["segment", pictures, "--model", TINY, "--boxes", given, "--out", tmp_path / "out", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", *map(str, words), "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    here = run(pictures, tmp_path, boxes=given)
    assert {**told, "seconds": 0} == {**here, "seconds": 0}


def test_points_and_numbered_objects(pictures, tmp_path, network):
    rows = [
        {"image": "p000", "x": 20, "y": 18, "label": "cell", "object": "", "inside": ""},
        {"image": "p000", "x": 30, "y": 20, "label": "cell", "object": "b", "inside": 1},
        {"image": "p000", "x": 4, "y": 30, "label": "cell", "object": "b", "inside": 0},
        {"image": "p000", "x": 4, "y": 30, "label": "cell", "object": "", "inside": 0},
    ]
    result = run(pictures, tmp_path, points=write_csv(tmp_path / "points.csv", rows), instances=True)
    [row] = result["images"]
    assert [o["value"] for o in row["outlines"]] == [1, 2]
    [gone] = result["left_out"]
    assert gone["source"] == "points.csv, line 5"
    assert "column object" in gone["reason"]
    seen = sam.embed(network, pixels_of(formats.read(pictures / "p000.png"))[:, 0])
    pair = sam.Prompt(points=np.array([[30.0, 20], [4, 30]]), positive=np.array([True, False]))
    [answer] = sam.outline(network, seen, [pair])
    assert row["outlines"][1]["voxels"] == int(answer.mask.sum())


def test_rough_masks_are_redrawn(pictures, tmp_path):
    result = run(pictures, tmp_path, masks=pictures.parent / "labels")
    assert result["labels"] == {"1": 1, "2": 2}
    assert len(result["images"]) == 3
    assert {o["value"] for row in result["images"] for o in row["outlines"]} == {1, 2}
    other = tmp_path / "wrong" / "p001.png"
    other.parent.mkdir()
    Pillow.fromarray(np.ones((9, 9), np.uint8)).save(other)
    with pytest.raises(UserError, match=r"p001\.png: has the shape 1 x 9 x 9, its image"):
        run(pictures, tmp_path, masks=tmp_path / "wrong")


def volume(folder: Path, axes: str = "RAS", thick: int = 2) -> tuple[Path, np.ndarray]:
    """A NIfTI with the axes stored in that order and direction; ``thick`` is the axis of wide spacing."""
    values, _ = made_outlines.volume(4)
    spacing = np.ones(3)
    spacing[thick] = 3.0
    turn = nibabel.orientations.axcodes2ornt(axes)
    affine = nibabel.orientations.inv_ornt_aff(turn, values.T.shape) @ np.diag([*spacing, 1.0])
    path = folder / "scans" / "case.nii.gz"
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values.T, affine), path)
    return path, values


@pytest.mark.parametrize(("axes", "thick"), [("RAS", 2), ("LPI", 2), ("SRA", 0), ("PIR", 1)])
def test_volumes_are_outlined_plane_by_plane_in_place(tmp_path, network, axes, thick):
    path, values = volume(tmp_path, axes, thick)
    row = {"image": "case.nii.gz", "x0": 8, "y0": 6, "z0": 1, "x1": 36, "y1": 30, "z1": 4, "label": "liver"}
    result = run(path.parent, tmp_path, boxes=write_csv(tmp_path / "b.csv", [row]))
    [outline] = result["images"][0]["outlines"]
    written, given = nibabel.load(tmp_path / "out" / "case.nii.gz"), nibabel.load(path)
    assert np.allclose(written.affine, given.affine)
    found = np.asarray(written.dataobj).T  # (z, y, x)
    assert found.shape == values.shape
    axis = 2 - thick
    low, high = ((8, 36), (6, 30), (1, 4))[thick]
    assert outline["planes"] == high - low
    beside = np.delete(np.moveaxis(found, axis, 0), np.arange(low, high), axis=0)
    assert not beside.any()
    place = low + 1
    plane = np.moveaxis(values, axis, 0)[place]
    (a0, a1), (b0, b1) = [e for i, e in enumerate(((8, 36), (6, 30), (1, 4))) if i != thick]
    seen = sam.embed(network, np.repeat(plane[None], 3, axis=0))
    [answer] = sam.outline(network, seen, [sam.Prompt(box=np.array([a0, b0, a1, b1], float))])
    assert np.array_equal(np.moveaxis(found, axis, 0)[place] > 0, answer.mask)


def test_one_plane_of_a_volume_by_box_or_point(tmp_path):
    path, _ = volume(tmp_path, "RAS", thick=0)  # cut along z where prompts say a z, whatever the spacing
    rows = [{"image": "case", "x0": 8, "y0": 6, "x1": 36, "y1": 30, "z": 3, "label": "7"}]
    result = run(path, tmp_path, boxes=write_csv(tmp_path / "b.csv", rows))
    found = np.asarray(nibabel.load(tmp_path / "out" / "case.nii.gz").dataobj).T
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [3]
    assert result["labels"] == {"7": 7}
    assert set(np.unique(found)) == {0, 7}
    rows = [{"image": "case", "x": 20, "y": 18, "z": 2}, {"image": "case", "x": 20, "y": 18, "z": ""}]
    result = run(path, tmp_path, points=write_csv(tmp_path / "p.csv", rows))
    found = np.asarray(nibabel.load(tmp_path / "out" / "case.nii.gz").dataobj).T
    assert set(np.flatnonzero(found.any(axis=(1, 2)))) <= {2}
    [gone] = result["left_out"]
    assert "says no plane, and its image has 6; add a column z" in gone["reason"]


def test_a_dicom_series_is_outlined_as_dicom_seg_and_run_lengths(tmp_path):
    pytest.importorskip("highdicom")
    from made_dicom import write_series
    from medspectrum.formats import coco_rle, dicom_seg
    from medspectrum.image import Image

    values = made_outlines.volume(4)[0].astype(np.int16) * 4 - 400
    affine = np.diag([0.8, 0.8, 2.5, 1.0])
    affine[:3, 3] = (-20, 10, 40)
    (tmp_path / "ct").mkdir()
    paths = write_series(tmp_path / "ct", Image(values[None], affine, "CT"), SpecificCharacterSet="")
    row = {"image": "ct", "x0": 8, "y0": 6, "z0": 1, "x1": 36, "y1": 30, "z1": 4, "label": "liver"}
    given = write_csv(tmp_path / "b.csv", [row])
    settings = {"boxes": given, "model": TINY, "quiet": True}
    masks = {}
    for format in ("nifti", "rle", "dicom-seg"):
        told = medspectrum.segment(tmp_path / "ct", out=tmp_path / format, format=format, **settings)
        [row] = told["images"]
        assert told["left_out"] == []
        masks[format] = tmp_path / format / row["file"]
    labels = formats.read(masks["nifti"]).array[0]
    assert labels.any()
    assert not labels[[0, 4, 5]].any()
    assert np.array_equal(coco_rle.read(masks["rle"])[0], labels)
    back = dicom_seg.on_series([str(masks["dicom-seg"])], [str(p) for p in paths], {"liver": 1})
    assert np.array_equal(back.array[0], labels)


def test_ct_is_shown_in_a_window():
    from medspectrum.image import Image

    values = np.array([-1000, -160, 40, 240, 900], np.int16).reshape(1, 1, 1, 5)
    assert pixels_of(Image(values, modality="CT"))[0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert pixels_of(Image(values), (-1000, 900))[0, 0, 0, [0, 4]].tolist() == [0, 255]
    assert pixels_of(Image(values))[2, 0, 0, [0, 4]].tolist() == [0, 255]
    assert window_of("-160,240") == (-160.0, 240.0)
    for words in ("1", "5,5", "a,b", "0,inf"):
        with pytest.raises(UserError, match="such as -160,240"):
            window_of(words)


def test_bad_prompts_are_named_and_the_run_goes_on(pictures, tmp_path):
    box = {"image": "p000.png", "x0": 5, "y0": 6, "x1": 30, "y1": 28, "label": "cell"}
    rows = [
        box,
        box | {"x1": 5},
        box | {"x0": 900, "x1": 950},
        box | {"y1": "high"},
        box | {"y0": "nan"},
        box | {"image": "absent.png"},
        box | {"x0": -3, "x1": 400},
    ]
    (tmp_path / "scans").mkdir()
    for picture in pictures.iterdir():
        (tmp_path / "scans" / picture.name).write_bytes(picture.read_bytes())
    (tmp_path / "scans" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    given = write_csv(tmp_path / "boxes.csv", rows)
    words = ["segment", tmp_path / "scans", "--model", TINY, "--boxes", given, "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", *map(str, words), "--json", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    reasons = {row["source"]: row["reason"] for row in told["left_out"]}
    assert "has no size" in reasons["boxes.csv, line 3 (p000.png)"]
    assert "lies outside the image of 44 x 36 pixels" in reasons["boxes.csv, line 4 (p000.png)"]
    assert reasons["boxes.csv, line 5"] == "y1 is 'high', which is no number"
    assert "has no size" in reasons["boxes.csv, line 6 (p000.png)"]
    assert (
        "'absent.png', which is not among those given ('broken.png', 'p000.png', 'p001.png', ...)"
        in reasons["boxes.csv, line 7"]
    )
    assert any("broken.png" in source for source in reasons)
    assert len(reasons) == 6
    assert [o["box"] for o in told["images"][0]["outlines"]] == [[5, 6, 30, 28], [0, 6, 44, 28]]
    assert (tmp_path / "out" / "left_out.csv").is_file()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "give one of --boxes, --boxes-from, --points, --masks, --text"),
        ({"boxes": Path("a.csv"), "text": "cell"}, "--boxes, --text were given; give one"),
        ({"text": "cell"}, "text needs --detector"),
        ({"boxes": Path("absent.csv")}, "absent.csv: does not exist"),
        ({"boxes": Path("empty")}, "empty: holds no XML file"),
        (
            {"boxes": Path("wrong.csv")},
            "wrong.csv: has no column image, x0, y0, x1, y1; its first line names a, b",
        ),
        ({"points": Path("wrong.csv")}, "has no column image, x, y"),
        ({"boxes": Path("wrong.json")}, "wrong.json: is not as COCO describes it"),
        ({"boxes_from": Path("empty")}, "empty is no predictor"),
        ({"masks": Path("empty")}, "empty: holds no label map"),
        (
            {"boxes": Path("elsewhere.csv")},
            "nothing points at any of its 3 images; elsewhere.csv, line 2: names the image 'other.png'",
        ),
        ({"boxes": Path("elsewhere.csv"), "format": "bmp"}, "there is no format 'bmp'"),
    ],
)
def test_what_cannot_be_used_at_all_is_one_sentence(pictures, tmp_path, monkeypatch, settings, sentence):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("wrong.csv").write_text("a,b\n1,2\n")
    Path("wrong.json").write_text('{"images": []}')
    Path("elsewhere.csv").write_text("image,x0,y0,x1,y1\nother.png,1,1,5,5\n")
    with pytest.raises(UserError) as told:
        run(pictures, tmp_path, **settings)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("make", [made_detectors.owlvit, made_detectors.grounding_dino])
def test_words_find_boxes_that_prompt(pictures, tmp_path, make):
    folder = make(tmp_path / "detector")
    result = run(pictures, tmp_path, text="cell, small nucleus", detector=folder, min_score=0.2)
    assert result["labels"] == {"cell": 1, "small nucleus": 2}
    assert len(result["images"]) == 3, "an image in which nothing is found has an empty mask"
    assert result["outlines"] > 0
    for row in result["images"]:
        assert all(o["score"] >= 0.2 for o in row["outlines"])
    detector = text_boxes.load(folder)
    picture = pixels_of(formats.read(pictures / "p000.png"))[:, 0]
    found, scores, labels = text_boxes.find(detector, picture, ["cell", "small nucleus"], min_score=0.2)
    own = result["images"][0]["outlines"]
    assert [o["box"] for o in own] == [[round(float(v), 3) for v in b] for b in found]
    assert [o["value"] for o in own] == (labels + 1).tolist()
    assert (np.diff(scores) <= 0).all()


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A predictor of the task detect on real weights, trained for a moment; and pictures it has not seen."""
    from medspectrum.datasets import load
    from medspectrum.models import resolve
    from medspectrum.predictor import save_predictor
    from medspectrum.registry import find
    from medspectrum.tasks.detect import Detect

    place = tmp_path_factory.mktemp("detect")
    cases = load(made_boxes.write_coco(place / "things", 12)).cases
    model = resolve("efficientnet-lite0", size=128, cache=place / "cache")
    task = Detect.of(cases)
    predictor = find("method", "detector").thing(model, cases[3:], task, least_steps=40, most_steps=40)
    facts = {"method": "detector", "model": "efficientnet-lite0", "size": 128, "model_key": model.key}
    facts |= {"task": "detect", "task_settings": task.settings()}
    save_predictor(place / "predictor", predictor, facts)
    for image in sorted((place / "things" / "images").iterdir())[:3]:
        (place / "new").mkdir(exist_ok=True)
        (place / "new" / image.name).write_bytes(image.read_bytes())
    return place


def test_a_predictor_that_detects_prompts(detector, tmp_path):
    new = detector / "new"
    (tmp_path / "scans").mkdir()
    for image in new.iterdir():
        (tmp_path / "scans" / image.name).write_bytes(image.read_bytes())
    (tmp_path / "scans" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    cache = {"cache": detector / "cache"}
    result = run(tmp_path / "scans", tmp_path, boxes_from=detector / "predictor", min_score=0.2, **cache)
    assert result["labels"] == {"disc": 1, "square": 2}
    assert len(result["images"]) == 3
    assert result["outlines"] > 3
    assert [Path(row["source"]).name for row in result["left_out"]] == ["broken.png"]
    told = medspectrum.predict(detector / "predictor", new, out=tmp_path / "boxes", quiet=True, **cache)
    assert told["cases"] == 3
    masks = {row["file"]: plane_of(tmp_path / "out" / row["file"]) for row in result["images"]}
    again = run(new, tmp_path, boxes=tmp_path / "boxes" / "boxes.json", min_score=0.2)
    assert again["outlines"] == result["outlines"]
    for row, other in zip(result["images"], again["images"], strict=True):
        assert np.array_equal(plane_of(tmp_path / "out" / row["file"]), masks[row["file"]])
        pairs = zip(row["outlines"], other["outlines"], strict=True)
        assert all(np.allclose(a["box"], b["box"], atol=0.01) for a, b in pairs)
    none = run(new, tmp_path, boxes_from=detector / "predictor", min_score=1.0, **cache)
    assert none["outlines"] == 0
    assert not plane_of(tmp_path / "out" / none["images"][0]["file"]).any()


def test_only_a_predictor_that_detects_gives_boxes(detector, tmp_path):
    import shutil

    from medspectrum.predictor import save_predictor
    from medspectrum.registry import find
    from medspectrum.tasks.segment import Segment

    cases = made_outlines.outlined(2)
    outlines = find("method", "mean_mask").thing(None, cases, Segment.of(cases))
    facts = {"method": "mean_mask", "model": "none", "size": None, "model_key": "", "task": "segment"}
    save_predictor(tmp_path / "outlines", outlines, facts)
    with pytest.raises(
        UserError, match="is a predictor for segment; boxes come from one for the task detect"
    ):
        run(detector / "new", tmp_path, boxes_from=tmp_path / "outlines")
    shutil.copytree(detector / "predictor", tmp_path / "altered")
    with (tmp_path / "altered" / "weights.safetensors").open("ab") as opened:
        opened.write(b"x")
    with pytest.raises(UserError, match="was altered after it was saved"):
        run(detector / "new", tmp_path, boxes_from=tmp_path / "altered")


def test_boxes_found_in_volumes_prompt_their_planes(tmp_path):
    from medspectrum.predictor import save_predictor
    from medspectrum.registry import find
    from medspectrum.tasks.detect import Detect

    cases = made_boxes.boxed(3, kind="volume")
    task = Detect.of(cases)
    predictor = find("method", "mean_boxes").thing(None, cases, task)
    facts = {"method": "mean_boxes", "model": "none", "size": None, "model_key": "", "task": "detect"}
    save_predictor(tmp_path / "predictor", predictor, facts | {"task_settings": task.settings()})
    values, _, _ = made_boxes.solid(9)
    nibabel.save(nibabel.Nifti1Image(values.T, np.diag([1, 1, 3.0, 1])), tmp_path / "scan.nii.gz")
    result = run(tmp_path / "scan.nii.gz", tmp_path, boxes_from=tmp_path / "predictor")
    [found] = predictor.predict(cases[:1])
    outlines = result["images"][0]["outlines"]
    assert len(outlines) == int((found.scores >= 0.3).sum()) > 0
    for outline, box in zip(outlines, found.boxes, strict=False):
        assert np.allclose(outline["box"], box, atol=1e-3)
        assert outline["planes"] == np.ceil(box[5]) - np.floor(box[2])


def test_the_library_finds_the_same_boxes(tmp_path):
    import torch

    folder = made_detectors.owlvit(tmp_path / "detector")
    detector = text_boxes.load(folder)
    picture = np.random.default_rng(0).integers(0, 256, (3, 40, 70), dtype=np.uint8)
    shown = Pillow.fromarray(np.moveaxis(picture, 0, -1).copy())
    given = detector.processor(images=shown, text=[["cell", "nucleus"]], return_tensors="pt", padding=True)
    with torch.no_grad():
        said = detector.network(**given)
    [theirs] = detector.processor.post_process_grounded_object_detection(
        said, threshold=0.1, target_sizes=torch.tensor([[40, 70]])
    )
    all_boxes = theirs["boxes"].numpy().clip(0, [70, 40, 70, 40])
    boxes, scores, labels = text_boxes.find(detector, picture, ["cell", "nucleus"], min_score=0.1)
    assert 0 < len(boxes) <= len(all_boxes)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        near = np.abs(all_boxes - box).max(axis=1)
        place = int(near.argmin())
        assert near[place] < 1e-3
        assert theirs["scores"][place].item() == pytest.approx(score, abs=1e-5)
        assert theirs["labels"][place].item() == label
    alone = made_detectors.owlvit(tmp_path / "again")
    (alone / "model.safetensors").unlink()
    with pytest.raises(UnreadableFile, match=r"no \.safetensors"):
        text_boxes.load(alone)
    with pytest.raises(UnreadableFile, match=r"no config\.json"):
        text_boxes.load(tmp_path)


def test_everything_is_outlined_and_numbered(tmp_path):
    ovals = Path(__file__).parent / "data" / "sam_ovals.pth"
    with np.load(Path(__file__).parent / "data" / "sam_everything.npz") as held:
        picture, count = held["picture"], len(held["whole_bbox"])
    (tmp_path / "images").mkdir()
    Pillow.fromarray(picture).save(tmp_path / "images" / "a.png")
    Pillow.fromarray(np.full((20, 30, 3), 60, np.uint8)).save(tmp_path / "images" / "empty.png")
    settings = {"everything": True, "points_per_side": 12, "min_iou": 0.6, "min_stability": 0.5}
    result = medspectrum.segment(
        tmp_path / "images", model=ovals, out=tmp_path / "out", quiet=True, **settings
    )
    assert (result["prompts_by"], result["instances"], result["labels"]) == (
        "everything",
        True,
        {"object": 1},
    )
    rows = {row["image"]: row for row in result["images"]}
    assert [r["value"] for r in rows["a.png"]["outlines"]] == list(range(1, count + 1))
    numbered = plane_of(tmp_path / "out" / "a.png")
    assert len(np.unique(numbered)) > 10
    for row in rows["a.png"]["outlines"]:
        own = np.argwhere(numbered == row["value"])
        if not len(own):  # smaller things cover it
            continue
        assert len(own) <= row["voxels"]
        x0, y0, x1, y1 = row["box"]
        assert (own.min(axis=0) >= [y0, x0]).all()
        assert (own.max(axis=0) < [y1, x1]).all()
    with pytest.raises(UserError, match="--boxes, --everything were given; give one of them"):
        medspectrum.segment(
            tmp_path / "images", model=ovals, out=tmp_path / "o", everything=True, boxes=tmp_path, quiet=True
        )


def test_everything_in_a_volume_is_found_plane_by_plane(tmp_path):
    with np.load(Path(__file__).parent / "data" / "sam_everything.npz") as held:
        grey = held["picture"][..., 0]
    volume = np.zeros((121, 90, 3), np.uint8)
    volume[..., 1] = grey.T
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 4, 1.0])), tmp_path / "v.nii.gz")
    ovals = Path(__file__).parent / "data" / "sam_ovals.pth"
    result = medspectrum.segment(
        tmp_path / "v.nii.gz", model=ovals, out=tmp_path / "out", everything=True, points_per_side=6,
        min_iou=0.6, min_stability=0.5, quiet=True,
    )  # fmt: skip
    middle = [r for r in result["images"][0]["outlines"] if r["source"] == "everything in plane 1"]
    assert middle
    assert all((r["box"][2], r["box"][5]) == (1, 2) for r in middle)
    mask = np.asanyarray(nibabel.load(tmp_path / "out" / "v.nii.gz").dataobj)
    assert mask.shape == volume.shape
    assert set(np.unique(mask[..., 1])) - {0} <= {r["value"] for r in middle}
