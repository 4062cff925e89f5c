"""What identifies a patient is gone from headers, names of files and logs; what the picture needs stays."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

import medspectrum
from made_identifiers import BIRTH, NAME, SECRETS, UID, made_ct, survivors
from medspectrum.deid.known import clean_name, clean_text, known_of
from medspectrum.deid.options import options_of
from medspectrum.deid.profile import actions, rows
from medspectrum.deid.secret import Secret
from medspectrum.errors import UserError

SECRET = Secret(bytes(range(32)))


def ask(**given):
    plain = {
        "retain": "",
        "clean": "",
        "dates": "remove",
        "pixels": "keep",
        "faces": "keep",
        "names": "clean",
    }
    return options_of(**(plain | given))


@pytest.fixture
def hospital(tmp_path):
    folder = tmp_path / "hospital"
    for number in (1, 2):
        made_ct(folder / "Zwetschkenbaum_Ottokar" / f"QX4471930_{number:03d}.dcm", number=number)
    return folder


def run(folder, **settings):
    settings = {"workers": 1, "quiet": True, "pixels": "keep"} | settings
    return medspectrum.deidentify(folder, out=folder.parent / "out", **settings)


def day(value: str) -> datetime:
    return datetime.strptime(value, "%Y%m%d")


def one(folder) -> pydicom.Dataset:
    return pydicom.dcmread(sorted(folder.rglob("*.dcm"))[0])


def test_no_identifier_is_left_anywhere(hospital, tmp_path, capfd):
    assert len({s for s, _ in survivors(hospital)}) == len(SECRETS)
    told = run(hospital, quiet=False)
    assert (told["files"], told["written"], told["left_out"]) == (2, 2, [])
    assert survivors(tmp_path / "out") == []
    said = capfd.readouterr()
    assert not [s for s in SECRETS if s.lower() in (said.out + said.err + json.dumps(told)).lower()]


def test_the_picture_and_its_geometry_stay(hospital, tmp_path):
    before, _ = one(hospital), run(hospital)
    after = one(tmp_path / "out")
    assert after.PixelData == before.PixelData
    for word in (
        "Rows",
        "PixelSpacing",
        "ImagePositionPatient",
        "RescaleIntercept",
        "Modality",
        "SliceThickness",
    ):
        assert after[word] == before[word]
    assert after.PatientIdentityRemoved == "YES"
    assert after.LongitudinalTemporalInformationModified == "REMOVED"
    assert [i.CodeValue for i in after.DeidentificationMethodCodeSequence] == ["113100"]
    assert after.SOPClassUID == before.SOPClassUID


def test_files_still_belong_together_and_the_key_decides(hospital, tmp_path):
    run(hospital)
    first, second = (pydicom.dcmread(p) for p in sorted((tmp_path / "out").rglob("*.dcm")))
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.PatientID == second.PatientID == first.PatientName
    assert first.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert second.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    key = tmp_path / "out.key"
    assert key.stat().st_mode & 0o077 == 0
    medspectrum.deidentify(hospital, out=tmp_path / "again", key=key, quiet=True)
    medspectrum.deidentify(hospital, out=tmp_path / "other", quiet=True)
    again, other = one(tmp_path / "again"), one(tmp_path / "other")
    assert (again.PatientID, again.SOPInstanceUID) == (first.PatientID, first.SOPInstanceUID)
    assert other.PatientID != first.PatientID
    assert other.StudyInstanceUID != first.StudyInstanceUID


def test_dates_move_together_or_go_or_stay(hospital, tmp_path):
    run(hospital, dates="shift")
    data = one(tmp_path / "out")
    moved = [day(data[w].value) for w in ("StudyDate", "SeriesDate", "ContentDate")]
    assert [(b - a).days for a, b in itertools.pairwise(moved)] == [1, 1]
    assert 365 <= (day("20210305") - moved[0]).days <= 3650
    assert str(data.AcquisitionDateTime)[:8] == str(data.StudyDate)
    assert str(data.AcquisitionDateTime).endswith("112233.5+0100")
    assert survivors(tmp_path / "out", ("20210305", "20210306", BIRTH)) == []
    medspectrum.deidentify(hospital, out=tmp_path / "kept", dates="keep", quiet=True)
    assert one(tmp_path / "kept").StudyDate == "20210305"
    medspectrum.deidentify(hospital, out=tmp_path / "gone", quiet=True)
    assert not one(tmp_path / "gone").get("StudyDate")


def test_what_is_retained_or_cleaned_stays_and_nothing_else(hospital, tmp_path):
    run(hospital, retain="uids,device,institution,patient", clean="descriptors,structured")
    data = one(tmp_path / "out")
    assert data.SOPInstanceUID == f"{UID}.1"
    assert data.StationName == "CT-ROOM-4"
    assert data.InstitutionName == "Sankt Pölten Süd"
    assert (data.PatientSex, data.PatientAge, data.PatientSize) == ("M", "090Y", 1.8)
    assert data.SeriesDescription == "axial 5 mm"
    assert data.StudyDescription.startswith("Thorax, Herr [NAME]")
    assert data.ConvolutionKernel == "B30 [ID]"
    left = {s for s, _ in survivors(tmp_path / "out")}
    assert left == {"99999.3.141", "lten S", "Kirschgasse", "Comment-5521", "Deep-3310"}
    codes = [i.CodeValue for i in data.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113104", "113109", "113112", "113108", "113110"]


def test_every_row_of_the_standards_table_is_acted_upon():
    found = actions(ask())
    assert len(rows()) > 600
    assert found[0x00100010] == "Z"
    assert found[0x00104000] == "X"
    assert found[0x0020000D] == "U"
    assert set(found.values()) == {"X", "Z", "D", "U"}
    assert actions(ask(dates="shift"))[0x00080020] == "C"
    assert actions(ask(retain="patient"))[0x00101010] == "K"
    assert actions(ask(clean="descriptors"))[0x00081030] == "C"


def test_each_kind_of_attribute_in_the_table_loses_its_value(tmp_path):
    """Every attribute of the table, filled with a value of its own kind, one object for all."""
    from pydicom.datadict import dictionary_VR

    values = {
        "DA": "19010203",
        "TM": "010203",
        "DT": "19010203010203",
        "AS": "055Y",
        "DS": "98765",
        "IS": "98765",
    }
    values |= {"UI": "1.2.3.98765", "AE": "PLUM98765", "CS": "PLUM98765", "UR": "http://plum98765"}
    path = made_ct(tmp_path / "in" / "a.dcm")
    data = pydicom.dcmread(path)
    for row in rows():
        if "x" in row["tag"] or row["tag"].startswith(("0000", "0002", "0004")) or row["tag"] == "00080018":
            continue
        tag = int(row["tag"], 16)
        kind = dictionary_VR(tag).partition(" or ")[0]
        if kind in values or kind in ("LO", "SH", "LT", "ST", "UT", "UC", "PN"):
            data.add_new(tag, kind, values.get(kind, "Plum98765"))
    data.save_as(path)
    assert len(data) > 450
    medspectrum.deidentify(tmp_path / "in", out=tmp_path / "out", quiet=True)
    after = one(tmp_path / "out")
    assert [e.keyword for e in after.iterall() if "98765" in str(e.value) or "1901" in str(e.value)] == []


def test_bad_input_is_listed_and_never_copied(hospital, tmp_path):
    good = sorted(hospital.rglob("*.dcm"))[0]
    whole = good.read_bytes()
    (hospital / "cut_header.dcm").write_bytes(whole[:700])
    (hospital / "cut_pixels.dcm").write_bytes(whole[:-200])
    (hospital / "nonsense.dcm").write_bytes(b"Zwetschkenbaum" * 40)
    (hospital / "unknown.xyz").write_bytes(b"Ottokar" * 9)
    (hospital / "empty.dcm").write_bytes(b"")
    shutil.make_archive(str(hospital / "all"), "zip", hospital / "Zwetschkenbaum_Ottokar")
    (hospital / "link.dcm").symlink_to(good)
    (hospital / "folder").symlink_to(good.parent)
    (hospital / "bare.dcm").write_bytes(whole[132:])
    told = run(hospital)
    assert {r["source"] for r in told["left_out"]} == {
        *(
            "cut_header.dcm",
            "cut_pixels.dcm",
            "nonsense.dcm",
            "unknown.xyz",
            "empty.dcm",
            "all.zip",
            "link.dcm",
            "folder",
        )
    }
    assert all(r["reason"] for r in told["left_out"])
    assert told["written"] == 3
    assert pydicom.dcmread(tmp_path / "out" / "bare.dcm").PatientIdentityRemoved == "YES"
    assert survivors(tmp_path / "out") == []
    rows = list(csv.DictReader((tmp_path / "out" / "deidentified.csv").open()))
    assert [r["outcome"] for r in rows].count("left out") == 8


def test_a_value_of_the_wrong_kind_goes(tmp_path):
    path = made_ct(tmp_path / "in" / "a.dcm")
    data = pydicom.dcmread(path)
    from pydicom import config
    from pydicom.dataelem import DataElement

    with config.disable_value_validation():
        data[0x00181151] = DataElement(0x00181151, "LO", "Plum98765")  # tube current is a number
        data[0x00280008] = DataElement(0x00280008, "LT", "Plum98765")
        data[0x00189999] = DataElement(0x00189999, "LO", "Plum98765")  # no such attribute
        data[0x00100010] = DataElement(0x00100010, "LT", "Plum98765")
        data[0x00204000] = DataElement(0x00204000, "UN", b"Plum98765 ")
        data[0x00185100] = DataElement(0x00185100, "CS", "Plum98765 plum@example.org")
        data.save_as(path)
    medspectrum.deidentify(tmp_path / "in", out=tmp_path / "out", quiet=True)
    assert survivors(tmp_path / "out", ("plum98765",)) == []


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "MR_small_bigendian.dcm"]
)
def test_compressed_pixels_stay_as_they_are(tmp_path, name):
    from pydicom.data import get_testdata_file

    (tmp_path / "in").mkdir()
    shutil.copy(str(get_testdata_file(name, download=False)), tmp_path / "in" / "a.dcm")
    medspectrum.deidentify(tmp_path / "in", out=tmp_path / "out", quiet=True)
    before, after = one(tmp_path / "in"), one(tmp_path / "out")
    assert before.file_meta.TransferSyntaxUID == after.file_meta.TransferSyntaxUID
    np.testing.assert_array_equal(before.pixel_array, after.pixel_array)


def test_reports_documents_and_references(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    text = Dataset()
    text.ValueType, text.TextValue = "TEXT", "Seen by Dr. Hollerwöger. MRN 4471930. Nodule of 5 mm."
    inner = Dataset()
    inner.ValueType, inner.PersonName = "PNAME", NAME
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-62000", "SRT", "Liver"
    text.ConceptNameCodeSequence, text.ContentSequence = Sequence([code]), Sequence([inner])
    made_ct(tmp_path / "in" / "sr.dcm", ContentSequence=Sequence([text]))
    made_ct(
        tmp_path / "in" / "pdf.dcm",
        EncapsulatedDocument=b"%PDF Zwetschkenbaum ",
        MIMETypeOfEncapsulatedDocument="application/pdf",
    )
    run(tmp_path / "in")
    assert survivors(tmp_path / "out") == []
    item = pydicom.dcmread(tmp_path / "out" / "sr.dcm").ContentSequence[0]
    assert item.TextValue == "REMOVED"
    assert item.ConceptNameCodeSequence[0].CodeValue == "T-62000"
    assert pydicom.dcmread(tmp_path / "out" / "pdf.dcm").EncapsulatedDocument.startswith(b"%PDF-1.4")
    medspectrum.deidentify(tmp_path / "in", out=tmp_path / "clean", clean="structured", quiet=True)
    cleaned = pydicom.dcmread(tmp_path / "clean" / "sr.dcm").ContentSequence[0].TextValue
    assert cleaned == "Seen by Dr. [NAME]. MRN [ID]. Nodule of 5 mm."


def test_work_is_not_handed_to_forks_of_a_process_with_threads(tmp_path):
    """A fork inherits locks that other threads held, and waits for them for ever."""
    for number in range(40):
        made_ct(tmp_path / "in" / f"{number:03d}.dcm", number=number)
    code = (
        "import os, pathlib, medspectrum\n"
        f"forked = pathlib.Path({str(tmp_path / 'forked')!r})\n"
        "os.register_at_fork(after_in_child=forked.touch)\n"
        f"told = medspectrum.deidentify({str(tmp_path / 'in')!r}, out={str(tmp_path / 'out')!r}, quiet=True, "
        "workers=2, pixels='keep')\n"
        "assert told['written'] == 40\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert not (tmp_path / "forked").exists()


def test_a_killed_run_goes_on(tmp_path):
    for number in range(400):
        made_ct(tmp_path / "in" / f"{number:03d}.dcm", number=number, SeriesDescription="x" * 60)
    code = (
        "import medspectrum\n"
        f"medspectrum.deidentify({str(tmp_path / 'in')!r}, out={str(tmp_path / 'out')!r}, quiet=True, "
        f"workers=2, pixels='keep')\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code])
    journal = tmp_path / "out" / ".deidentified.partial.csv"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (journal.is_file() and journal.read_text().count("\n") > 9):
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    time.sleep(1.2)  # the processes it started notice and end
    assert not (tmp_path / "out" / "deidentified.csv").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.dcm")}
    assert 0 < len(before) < 400
    assert all(pydicom.dcmread(p).PatientIdentityRemoved == "YES" for p in (tmp_path / "out").glob("*.dcm"))
    told = run(tmp_path / "in")
    assert told["written"] == 400
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.dcm")}
    assert sum(after[name] == changed for name, changed in before.items()) >= 9
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*after, "deidentified.csv"])
    again = run(tmp_path / "in")
    assert again["done"] == told["done"]
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.dcm")} == after


def test_folders_that_would_mix_are_refused(hospital, tmp_path):
    for settings in (
        {"out": hospital / "inside"},
        {"out": tmp_path},
        {"out": tmp_path / "out", "key": tmp_path / "out" / "key"},
        {"out": tmp_path / "out", "link": tmp_path / "out" / "link.csv"},
        {"out": tmp_path / "out", "dates": "moved"},
        {"out": tmp_path / "out", "retain": "everything"},
    ):
        with pytest.raises(UserError):
            medspectrum.deidentify(hospital, quiet=True, **settings)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        medspectrum.deidentify(hospital, out=tmp_path / "full", quiet=True)


def test_link_tells_what_became_of_a_file_and_lies_elsewhere(hospital, tmp_path):
    run(hospital, link=tmp_path / "link.csv", names="replace")
    found = list(csv.DictReader((tmp_path / "link.csv").open()))
    assert [Path(r["original"]).name for r in found] == ["QX4471930_001.dcm", "QX4471930_002.dcm"]
    assert all((tmp_path / "out" / r["file"]).is_file() for r in found)
    assert len({Path(r["file"]).parent for r in found}) == 1


FACTS = [("name", NAME, "QX-4471930"), ("id", "QX-4471930", "QX-4471930"), ("name", "Möller^Ann", "")]


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("OTTOKAR ZWETSCHKENBAUM came in", ("OTTOKAR",)),
        ("zwetschkenbaum,ottokar: fine", ("zwetsch", "ottokar")),
        ("seen by Moller", ("Moller",)),
        ("QX4471930 / QX 4471930", ("4471930",)),
        ("on 3 March 2019, 12.05.2020 and 2019-11-30T10:11:12", ("March", "12.05", "2019")),
        ("call +43 664 1234567 or (555) 123-4567", ("664", "123-4567")),
        ("mail a.b@c-d.org, see https://x.org/p?id=3", ("a.b", "x.org")),
        ("MRN: 00471, Patient ID=AB12", ("00471", "AB12")),
        ("reported by: Jane Q. Public", ("Jane", "Public")),
        ("lives at 12 Old Mill Road, Springfield", ("Old Mill",)),
        ("SSN 123-45-6789", ("6789",)),
        ("born 14.02.1937. Seen 3/4/2020. From 10.1.2.3.", ("14.02", "2020", "10.1")),
        ("a man of 93 years", ("93",)),
    ],
)
def test_free_text_loses_what_identifies(text, gone):
    cleaned, count = clean_text(text, known_of(FACTS, SECRET))
    assert count
    assert not [g for g in gone if g.lower() in cleaned.lower()], cleaned


@pytest.mark.parametrize(
    "text",
    [
        "Nodule of 5 x 7 mm in segment 8, SUV 12.4, unchanged. MR Brain with T1 and T2.",
        "Dr. will see; 45 year old; ratio 1.5/2.5; grade 2/3; L4/5; 120 kV 35.5 mAs",
        "1.2.840.10008.1.2.1",
    ],
)
def test_findings_stay_as_they_are(text):
    assert clean_text(text, known_of(FACTS, SECRET)) == (text, 0)


@pytest.mark.parametrize(
    "name", ["IMG00000001", "slice_012", "t1_mprage", "MR2", "series 3", "chest_pa", "ct-3slice"]
)
def test_harmless_names_of_files_stay(name):
    assert clean_name(name, known_of(FACTS, SECRET), SECRET) == name


@pytest.mark.parametrize(
    "name",
    [
        "Zwetschkenbaum",
        "QX4471930",
        "MRN00471",
        "Doe^Jane",
        "Doe, Jane",
        "scan_2019-03-01",
        "12345678",
        "20190301",
    ],
)
def test_telling_names_of_files_change_in_the_same_way(name):
    known = known_of(FACTS, SECRET)
    new = clean_name(name, known, SECRET)
    assert new != name
    assert new == clean_name(name, known, SECRET)


@pytest.mark.skipif(not shutil.which("dcmdump"), reason="needs dcmtk (dcmdump)")
def test_dcmtk_reads_what_is_written(hospital, tmp_path):
    run(hospital)
    for path in (tmp_path / "out").rglob("*.dcm"):
        subprocess.run(["dcmdump", "-q", str(path)], check=True, capture_output=True)


@pytest.mark.shared_data
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dicom3tools (dciodvfy)")
def test_real_objects_stay_as_valid_as_they_were(tmp_path):
    place = os.environ.get("MEDSPECTRUM_DATA")
    if not place:
        pytest.skip("MEDSPECTRUM_DATA does not name the larger data sets")
    source = Path(place) / "dicom"
    told = medspectrum.deidentify(source, out=tmp_path / "out", link=tmp_path / "link.csv", quiet=True)
    assert told["kinds"]["dicom"] == 36
    new = {r["original"]: r["file"] for r in csv.DictReader((tmp_path / "link.csv").open())}
    for name in (
        "single/MR2_J2KR.dcm",
        "rt_struct_plan/rtss.dcm",
        "ct3slice_seg_sr/liver.dcm",
        "ct3slice_seg_sr/sr-example/sr.dcm",
    ):
        errors = []
        for path in (source / name, tmp_path / "out" / new[name]):
            said = subprocess.run(
                ["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", check=False
            )
            errors.append({line for line in said.stderr.splitlines() if line.startswith("Error")})
        assert errors[1] <= errors[0]
