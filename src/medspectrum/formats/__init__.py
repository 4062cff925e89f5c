"""Files to images. What a file is, is decided by its first bytes, never by its name.

``read(path)`` gives an ``Image``; ``lazy(path)`` gives one that is read when needed. A file that cannot
be read raises ``UnreadableFile`` with one sentence; a run over many files lists it and goes on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from medspectrum import store
from medspectrum.case import LazyImage
from medspectrum.errors import UnreadableFile
from medspectrum.formats.safety import remark
from medspectrum.image import Image

SUFFIXES = {
    "raster": (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2", ".j2k"),
    "tiff": (".tif", ".tiff"),
    "dicom": (".dcm", ".dicom", ".ima"),
    "nifti": (".nii", ".nii.gz", ".hdr"),
    "nrrd": (".nrrd", ".nhdr"),
    "slide": (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".svslide", ".vms"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".m4v"),
}
KIND_OF = {suffix: kind for kind, suffixes in SUFFIXES.items() for suffix in suffixes}
WORDS = {
    "raster": "a picture (PNG, JPEG...)",
    "tiff": "a TIFF",
    "dicom": "DICOM",
    "nifti": "NIfTI",
    "nrrd": "NRRD",
    "slide": "a whole slide",
    "video": "a video",
}
UNDERSTOOD = "PNG, JPEG, TIFF, BMP, GIF, WebP, DICOM, NIfTI, NRRD, whole slides and videos"


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The lower-case suffix; ``.nii.gz`` counts as one."""
    name = os.fspath(path).lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]  # noqa: PTH122


def named_like_image(path: str | os.PathLike[str]) -> bool:
    """Whether the name ends like a picture's; says nothing of the content."""
    return suffix_of(path) in KIND_OF


def kind(path: str | os.PathLike[str]) -> str:
    """What a file holds, by its first bytes: a key of ``SUFFIXES``. Raises UnreadableFile."""
    path = Path(path)
    if path.is_dir():
        raise UnreadableFile(path, "is a folder, not a file")
    try:
        with path.open("rb") as opened:
            head = opened.read(560)
    except FileNotFoundError:
        words = "is a link to a file that is not there" if path.is_symlink() else "does not exist"
        raise UnreadableFile(path, words) from None
    except PermissionError:
        raise UnreadableFile(path, "may not be opened (permission denied); ask for read access") from None
    except OSError as error:
        raise UnreadableFile(path, f"cannot be opened ({error.strerror or error})") from error
    if not head:
        raise UnreadableFile(path, "is empty (0 bytes); copy it again from its source")
    found = _by_magic(head, path)
    if found is not None:
        return found
    if suffix_of(path) in KIND_OF:
        raise UnreadableFile(
            path,
            f"is named {suffix_of(path)} but does not hold {WORDS[KIND_OF[suffix_of(path)]]} "
            f"(it starts with {head[:8].hex(' ')}); it may be damaged: copy it again from its source",
        )
    raise UnreadableFile(path, f"is no picture that is understood ({UNDERSTOOD})")


def _by_magic(head: bytes, path: Path) -> str | None:
    """The kind that the first bytes tell, or None. Raises UnreadableFile for known other things."""
    if suffix_of(path) in (".mrxs", ".vms") or (
        head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and KIND_OF.get(suffix_of(path)) == "slide"
    ):
        return "slide"
    if head.startswith(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
    ):
        return "raster"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "raster"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:4] == b"NRRD":
        return "nrrd"
    if _nifti(head):
        return "nifti"
    if head[:2] == b"\x1f\x8b":
        return _packed(path)
    if head[:4] == b"RIFF":
        return "raster" if head[8:12] == b"WEBP" else "video"
    if head[4:8] == b"ftyp" and head[8:11] not in (b"hei", b"avi", b"mif"):
        return "video"
    if head[:4] in (b"\x1aE\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"0&\xb2u"):
        return "video"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        locked = head[:4] == b"PK\x03\x04" and head[6] & 1
        raise UnreadableFile(
            path,
            "is a password-locked archive; unlock and unpack it first"
            if locked
            else "is an archive, not a picture; unpack it first (an .npz is given as DATA itself)",
        )
    if head[:5] == b"%PDF-":
        raise UnreadableFile(path, "is a PDF document, not a picture; export its images as PNG first")
    # DICOM parts sent without the preamble begin with a group of 0002 or 0008 in little endian
    if head[:2] in (b"\x02\0", b"\x08\0") and head[3:4] == b"\0":
        return "dicom"
    return None


def _nifti(head: bytes) -> bool:
    first = head[344:347] in (b"n+1", b"ni1")
    second = head[4:7] in (b"n+2", b"ni2")
    old = head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c") and len(head) >= 348  # Analyze 7.5: 348 bytes
    return first or second or old


def _packed(path: Path) -> str:
    from isal import igzip

    try:
        with igzip.IGzipFile(path, "rb") as opened:
            inner = opened.read(560)
    except (OSError, EOFError, igzip.BadGzipFile) as error:
        raise UnreadableFile(path, f"is a damaged gzip file ({error}); copy it again") from error
    if _nifti(inner):
        return "nifti"
    raise UnreadableFile(path, "is a gzip file that holds no NIfTI; unpack it first")


def read(path: str | os.PathLike[str]) -> Image:
    """Read any understood file. Raises UnreadableFile: one sentence, whatever the decoder said."""
    path = Path(path)
    found = kind(path)
    named = KIND_OF.get(suffix_of(path))
    if named is not None and named != found and {named, found} != {"tiff", "slide"}:
        remark(f"is named {suffix_of(path)} but holds {WORDS[found]}; it was read as that")
    try:
        return _read_as(found, path)
    except UnreadableFile:
        raise
    except MemoryError as error:
        raise UnreadableFile(path, "does not fit into memory; crop or resample it first") from error
    except Exception as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UnreadableFile(
            path,
            f"cannot be read as {WORDS[found]} ({words}); it may be truncated or damaged: "
            "copy it again from its source",
        ) from error


def _read_as(found: str, path: Path) -> Image:
    from medspectrum.formats import dicom, nifti, nrrd, raster, slide, video

    readers = {
        "raster": raster.read,
        "tiff": raster.read_tiff,
        "dicom": dicom.read,
        "nifti": nifti.read,
        "nrrd": nrrd.read,
        "slide": slide.read,
        "video": video.read,
    }
    return readers[found](path)


def key(path: str | os.PathLike[str]) -> str:
    """Digest of the file's content. Raises UnreadableFile where it cannot be opened."""
    try:
        return store.file_digest(path)
    except OSError as error:
        kind(path)  # says why, in a sentence, where it can
        raise UnreadableFile(path, f"cannot be opened ({error.strerror or error})") from error


@dataclass(frozen=True, slots=True)
class FileRead:
    """Call it to read one file: as small as a path, and travels to other processes."""

    path: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The file, as one of several would be told."""
        return (self.path,)

    def __call__(self) -> Image:
        """Read it."""
        return read(self.path)


@dataclass(frozen=True, slots=True)
class FileKey:
    """Call it for the digest of one file."""

    path: str

    def __call__(self) -> str:
        """Digest it."""
        return key(self.path)


def lazy(path: str | os.PathLike[str]) -> LazyImage:
    """The file as an image that is read when needed; its key is the digest of the file."""
    name = os.fspath(path)
    return LazyImage(name, FileRead(name), FileKey(name))


def paths_of(image: LazyImage) -> tuple[str, ...]:
    """The files that an image is read from, in the order of its planes; none where it is no file's."""
    return tuple(getattr(image.load, "paths", ()))
