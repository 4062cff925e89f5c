"""A thousand identifiers planted in files of all kinds: how many survive, are files still read, how fast it
goes.

    python benchmarks/deidentify.py --data shared/data --work /tmp/deidentify

Objects of ``DATA/dicom`` are filled with made-up names, numbers, dates, addresses and UIDs, each of them
unique, in attributes of every kind, nested sequences, private blocks, text of reports, overlays, preambles,
file meta information and pixels; made NIfTI, NRRD, PNG, JPEG, TIFF, SVS, text, table and JSON files likewise;
and names of files and folders. After ``medspectrum deidentify`` every one is looked for in all bytes
(unpacked where packed), names, the table and the logs. Pixels count as clean where the box of the letters
holds one value. Bare surnames that stand in no header are counted apart: they have no form to be found by.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from measurement import save

WANTED = 1000
START, END = (
    ("bra", "kel", "mon", "tu", "vel", "zor", "fi", "gra", "hol", "jas"),
    ("berg", "quist", "dottir", "wicz", "ley"),
)


class Planter:
    """Gives identifiers that occur nowhere else, and remembers where each was put."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.planted: list[dict] = []
        self.boxes: list[dict] = []
        self.used: set[str] = set()

    def _new(self, make) -> str:
        while True:
            value = make()
            if value.lower() not in self.used:
                self.used.add(value.lower())
                return value

    def word(self) -> str:
        pick = lambda: "".join(self.rng.choice(START, 3)) + str(self.rng.choice(END))  # noqa: E731
        return self._new(pick).capitalize()

    def digits(self, count: int) -> str:
        return self._new(lambda: str(self.rng.integers(10 ** (count - 1), 10**count)))

    def date(self) -> str:
        return self._new(
            lambda: (
                f"{self.rng.integers(1921, 2024)}{self.rng.integers(1, 13):02}{self.rng.integers(1, 29):02}"
            )
        )

    def put(self, value: str, kind: str, place: str) -> str:
        """Remember a piece that may not be found afterwards."""
        self.planted.append({"value": value, "kind": kind, "place": place})
        return value

    def name(self, place: str) -> str:
        return f"{self.put(self.word(), 'name', place)}^{self.put(self.word(), 'name', place)}"


TEXT = {"LO": 1, "SH": 1, "ST": 1, "LT": 1, "UT": 1, "UC": 1}


def fill(data, plant: Planter, patient: dict, rows: list) -> None:
    """Attributes of the standard's table with values of their kind; some nested; private; around the data
    set.
    """
    from pydicom.datadict import dictionary_VR
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    data.SpecificCharacterSet = "ISO_IR 192"
    data.PatientName, data.PatientID, data.PatientBirthDate = patient["name"], patient["id"], patient["birth"]
    for row in rows:
        tag, kind = int(row["tag"], 16), dictionary_VR(int(row["tag"], 16)).partition(" or ")[0]
        place = f"attribute, {kind}"
        if kind == "PN":
            data.add_new(tag, kind, plant.name(place))
        elif kind in ("DA", "DT"):
            data.add_new(
                tag, kind, plant.put(plant.date(), "date", place) + ("101112" if kind == "DT" else "")
            )
        elif kind == "UI":
            data.add_new(tag, kind, "1.2.826.0.1." + plant.put(plant.digits(12), "uid", place))
        elif kind in TEXT:
            data.add_new(tag, kind, plant.put(plant.word()[:12], "text", place))
    inner, outer = Dataset(), Dataset()
    inner.PersonName = plant.name("nested sequence")
    inner.add_new(0x00080050, "SH", plant.put(plant.digits(9), "number", "nested sequence"))
    outer.PurposeOfReferenceCodeSequence = Sequence([inner])
    data.SourceImageSequence = Sequence([outer])
    data.private_block(0x0029, "PLANTED", create=True).add_new(
        1, "LO", plant.put(plant.word(), "text", "private")
    )
    data.add_new(0x60004000, "LT", plant.put(plant.word(), "text", "overlay comments"))
    data.preamble = plant.put(plant.word(), "name", "preamble").encode().ljust(128)
    data.file_meta.SourceApplicationEntityTitle = plant.put(
        plant.digits(9), "number", "file meta information"
    )
    data.ConvolutionKernel = f"B30 {patient['id']}"  # an attribute the table says nothing of


def letter(data, plant: Planter, name: str) -> bool:
    """Two lines of letters in the darkest parts of a picture, as scanners write them; the boxes are
    remembered.
    """
    from PIL import Image, ImageDraw, ImageFont
    from pydicom.pixels.utils import pixel_array

    if (
        "PixelData" not in data
        or int(data.get("BitsAllocated") or 0) not in (8, 16)
        or "Palette" in str(data.get("PhotometricInterpretation")).title()
    ):
        return False
    values = pixel_array(data)
    frames = values.reshape(
        int(data.get("NumberOfFrames") or 1), int(data.Rows), int(data.Columns), -1
    ).copy()
    high, wide = frames.shape[1:3]
    if high < 128 or wide < 200:
        return False
    font = ImageFont.load_default(max(12, high // 40))
    for _ in range(2):
        words = f"{plant.word().upper()} {plant.digits(7)}"
        box = ImageDraw.Draw(Image.new("L", (8, 8))).textbbox((0, 0), words, font=font)
        long, tall = int(box[2]) + 2, int(box[3]) + 2
        if long + 4 > wide:
            return False
        view = frames[0, ..., 0].astype(float)
        spots = [
            (int(plant.rng.integers(0, wide - long)), int(plant.rng.integers(0, high - tall)))
            for _ in range(200)
        ]
        taken = [b["box"] for b in plant.boxes if b["file"] == name]
        spots = [s for s in spots if all(abs(s[1] - t[1]) > 2 * tall for t in taken)]
        x, y = min(spots, key=lambda s: view[s[1] : s[1] + tall, s[0] : s[0] + long].max())
        mask = Image.new("L", (wide, high))
        ImageDraw.Draw(mask).text((x, y), words, font=font, fill=255)
        frames[:, np.asarray(mask) > 127] = frames.max()
        plant.boxes.append({"file": name, "box": [x, y + int(box[1]), x + long, y + tall], "uid": ""})
        plant.put(words, "pixels", "burnt-in text")
    kind = "RGB" if frames.shape[-1] == 3 else str(data.PhotometricInterpretation)
    data.set_pixel_data(frames.reshape(values.shape), kind, int(data.BitsStored), generate_instance_uid=False)
    return True


def plant_dicom(source: Path, folder: Path, plant: Planter) -> list[Path]:
    """The objects under new patients, in folders and files named after them."""
    import pydicom
    from pydicom.datadict import dictionary_VR

    from medspectrum.deid.profile import rows

    suited = [
        row
        for row in rows()
        if "x" not in row["tag"]
        and not row["tag"].startswith(("0000", "0002", "0004", "0010001", "0010002", "00100030"))
        and row["tag"] not in ("00080018", "0020000d", "0020000e")
        and dictionary_VR(int(row["tag"], 16)).partition(" or ")[0] in {*TEXT, "PN", "DA", "DT", "UI"}
    ]
    written = []
    for number, path in enumerate(sorted(source.rglob("*.dcm"))):
        data = pydicom.dcmread(path)
        patient = {
            "name": plant.name("patient"),
            "id": plant.put(plant.digits(8), "number", "patient"),
            "birth": plant.put(plant.date(), "date", "patient"),
        }
        fill(data, plant, patient, [suited[(number * 17 + k) % len(suited)] for k in range(17)])
        lettered = letter(data, plant, path.name)
        first, last = patient["name"].split("^")
        new = folder / f"{first}_{last}" / f"{patient['id']}_{path.name}"
        plant.put(f"{first}_{last}", "path", "folder")
        new.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(new, enforce_file_format=True)
        if lettered:
            for box in plant.boxes:
                box["file"] = str(new.relative_to(folder)) if box["file"] == path.name else box["file"]
        written.append(new)
    return written


def plant_files(folder: Path, plant: Planter, patients: list[str]) -> list[str]:
    """Files of other kinds; the bare surnames in free text that no header knows come back."""
    import nibabel as nib
    import nrrd
    import tifffile
    from PIL import Image, PngImagePlugin

    folder.mkdir(parents=True, exist_ok=True)
    picture = (np.add.outer(np.arange(96), np.arange(128)) % 200).astype(np.uint8)
    coloured = np.stack([picture, picture // 2, picture // 3], axis=-1)

    def put(kind: str, place: str) -> str:
        return plant.put(plant.word() if kind == "name" else plant.digits(9), kind, place)

    bare = []
    for n in range(12):
        image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
        image.header["descrip"], image.header["aux_file"] = (
            put("name", "NIfTI descrip"),
            put("name", "NIfTI aux_file"),
        )
        image.header.extensions.append(
            nib.nifti1.Nifti1Extension("comment", put("name", "NIfTI extension").encode())
        )
        nib.save(image, folder / f"v{n}.nii{'.gz' if n % 2 else ''}")
        nrrd.write(str(folder / f"m{n}.nrrd"), image.get_fdata(), {"scanned by": put("name", "NRRD field")})
        words = PngImagePlugin.PngInfo()
        words.add_text("Name", put("name", "PNG text"))
        words.add_itxt("Number", put("number", "PNG text"), zip=bool(n % 2))
        Image.fromarray(coloured).save(folder / f"p{n}.png", pnginfo=words)
        exif = Image.Exif()
        exif[0x010E], exif[0x013B] = put("name", "Exif"), put("name", "Exif")
        Image.fromarray(coloured).save(
            folder / f"j{n}.jpg", exif=exif, comment=put("number", "JPEG comment").encode()
        )
        tifffile.imwrite(
            folder / f"t{n}.tif",
            coloured,
            description=put("name", "TIFF description"),
            software=put("name", "TIFF software"),
            metadata=None,
            photometric="rgb",
        )
        with tifffile.TiffWriter(folder / f"s{n}.svs") as file:
            about = f"Aperio v1\r\n128x96|AppMag = 20|User = {put('name', 'SVS user')}|Filename = "
            f"{put('name', 'SVS file name')}|MPP = 0.5"
            file.write(coloured, tile=(32, 32), description=about, metadata=None, photometric="rgb")
            label = np.frombuffer(
                (put("name", "SVS label") * 60).encode()[:1200].ljust(1200), np.uint8
            ).reshape(20, 20, 3)
            file.write(
                label, description="Aperio\r\nlabel 20x20", subfiletype=1, metadata=None, photometric="rgb"
            )
        surname, known = put("name", "free text, titled"), patients[n % len(patients)].split("^")
        mail, telephone = (
            put("name", "free text, e-mail"),
            plant.put(plant.digits(7), "phone", "free text, telephone"),
        )
        number, day = put("number", "free text, record"), plant.date()
        plant.put(f"{day[6:]}.{day[4:6]}.{day[:4]}", "date", "free text, date")
        (folder / f"r{n}.txt").write_text(
            f"Dr. {surname} saw {known[0]} {known[1]} on {day[6:]}.{day[4:6]}.{day[:4]}. MRN: {number}. "
            f"Tel. +43 1 {telephone}, {mail}@example.org. Nodule of 7 mm in segment 8."
        )
        bare.append(plant.word())
        (folder / f"b{n}.txt").write_text(f"As {bare[-1]} said before, unchanged.")
        (folder / f"c{n}.csv").write_text(
            "patient_id,patient name,birthdate,address,diagnosis\n"
            f"{put('number', 'table')},{put('name', 'table')},{plant.put(plant.date(), 'date', 'table')},"
            f"{put('name', 'table')},cyst\n"
        )
        (folder / f"n{n}.json").write_text(
            json.dumps(
                {"PatientName": put("name", "JSON"), "PatientID": put("number", "JSON"), "EchoTime": 0.03}
            )
        )
    return bare


def contents(path: Path) -> bytes:
    """A file's bytes, and once more unpacked where it is packed."""
    import zlib

    whole = path.read_bytes()
    more = b""
    if path.suffix == ".dcm":  # raw pixels are judged by their values
        import pydicom

        pixels = pydicom.dcmread(path).get("PixelData", b"")
        return whole.replace(pixels, b"") if pixels else whole
    if path.name.endswith(".gz"):
        more = gzip.decompress(whole)
    if path.suffix == ".nrrd":
        more = gzip.decompress(whole.partition(b"\n\n")[2])
    if path.suffix == ".png":
        for match in re.finditer(rb"zTXt|iTXt", whole):
            at = whole.find(b"\x78", match.start())
            try:
                more += zlib.decompressobj().decompress(whole[at:])
            except zlib.error:
                continue
    return whole + more


def survivors(folder: Path, values: list[str], logs: str) -> Counter:
    """In how many files, names of files or logs each value is found, without regard to case."""
    found: Counter = Counter()
    texts = [logs.lower().encode()]
    for path in sorted(folder.rglob("*")):
        texts.append(str(path.relative_to(folder)).lower().encode())
        if path.is_file():
            whole = contents(path)
            forms = (whole, whole.replace(b"\0", b""))
            texts += [b"\n".join(re.findall(rb"[\x20-\x7e]{5,}", form)).lower() for form in forms]
    for value in values:
        form = value.lower().encode()
        found[value.lower()] = sum(form in text for text in texts)
    return +found


def pixels_left(boxes: list[dict], link: dict[str, str], out: Path) -> list[str]:
    """Files in which the letters' box still holds more than one value."""
    import pydicom
    from pydicom.pixels.utils import pixel_array

    left = []
    for box in boxes:
        data = pydicom.dcmread(out / link["dicom/" + box["file"]])
        frames = pixel_array(data).reshape(
            int(data.get("NumberOfFrames") or 1), int(data.Rows), int(data.Columns), -1
        )
        x0, y0, x1, y1 = box["box"]
        if np.ptp(frames[:, y0:y1, x0:x1].reshape(-1, frames.shape[-1]), axis=0).any():
            left.append(str(data.get("Modality")))
    return left


def readable(out: Path) -> dict:
    """How many of the written objects each judge reads."""
    import pydicom

    paths = sorted(out.rglob("*.dcm"))
    told = {"objects": len(paths), "pydicom": sum(bool(pydicom.dcmread(p).SOPInstanceUID) for p in paths)}
    if shutil.which("dcmdump"):
        told["dcmdump"] = sum(
            subprocess.run(["dcmdump", "-q", str(p)], capture_output=True, check=False).returncode == 0
            for p in paths
        )
    return told


def speed(source: Path, work: Path, count: int = 600) -> dict:
    """Instances a second, headers only, of one CT slice of 512 x 512 under as many instance UIDs."""
    import pydicom

    import medspectrum

    folder = work / "many"
    folder.mkdir(parents=True, exist_ok=True)
    data = pydicom.dcmread(source / "ct3slice_seg_sr" / "ct-3slice" / "01.dcm")
    for number in range(count):
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
        data.save_as(folder / f"{number:04}.dcm")
    told = {"instances": count, "attributes": sum(1 for _ in data.iterall())}
    for workers in (1, 2):
        shutil.rmtree(work / "many_out", ignore_errors=True)
        begun = time.perf_counter()
        medspectrum.deidentify(folder, out=work / "many_out", workers=workers, pixels="keep", quiet=True)
        told[f"per_second_{workers}"] = round(count / (time.perf_counter() - begun), 1)
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    shutil.rmtree(given.work, ignore_errors=True)
    before, out = given.work / "before", given.work / "after"
    plant = Planter(given.seed)
    plant_dicom(given.data / "dicom", before / "dicom", plant)
    names = [p.parent.name.replace("_", "^") for p in sorted((before / "dicom").rglob("*.dcm"))]
    bare = plant_files(before / "others", plant, names)
    shutil.copy(given.data / "wsi" / "CMU-1-Small-Region.svs", before / "others" / "real.svs")
    values = [p["value"] for p in plant.planted if p["kind"] != "pixels"]
    planted_found = survivors(before, values, "")
    begun = time.perf_counter()
    command = ["deidentify", str(before), "--out", str(out), "--link", str(given.work / "link.csv"), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "medspectrum", *command], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    logs = done.stdout + done.stderr
    told = json.loads(done.stdout)
    link = dict(line.rsplit(",", 1) for line in (given.work / "link.csv").read_text().splitlines()[1:])
    found = survivors(out, values, logs)
    where = Counter(p["place"] for p in plant.planted if p["value"].lower() in found)
    left = pixels_left(plant.boxes, link, out)
    save(
        "deidentify",
        {
            "planted": len(plant.planted),
            "planted_by_place": dict(sorted(Counter(p["place"] for p in plant.planted).items())),
            "found_before": len(planted_found),
            "of_text_values": len(values),
            "surviving": len(found),
            "surviving_by_place": dict(where),
            "burnt_in": len(plant.boxes),
            "burnt_in_surviving": left,
            "bare_surnames": len(bare),
            "bare_surnames_surviving": len(survivors(out, bare, logs)),
            "exit_code": done.returncode,
            "files": {k: told[k] for k in ("files", "written", "kinds", "done", "left_out", "warnings")},
            "seconds_with_text_in_pixels": round(seconds, 1),
            "readable": readable(out),
            "speed_headers_only": speed(given.data / "dicom", given.work),
        },
    )


if __name__ == "__main__":
    main()
