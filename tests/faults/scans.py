"""Broken scans of every kind, made from one intact scan; the same ones at each run."""

from __future__ import annotations

import gzip
import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import MRImageStorage, generate_uid

from ..helpers.dicom_series import Study, write_dicom_series

HEADER = 352
"""Bytes of a NIfTI header, with the four that tell of extensions."""


@dataclass(frozen=True)
class Scan:
    """An intact scan: its files as they are without compression."""

    swi: bytes
    phase: bytes

    @classmethod
    def of(cls, cohort: Path, subject: str) -> Scan:
        """Read a subject of a simulated cohort."""
        return cls(
            *(gzip.decompress((cohort / "Data" / m / f"{subject}.nii.gz").read_bytes()) for m in ("SWI", "Phase"))
        )

    @property
    def image(self) -> nib.Nifti1Image:
        return nib.Nifti1Image.from_bytes(self.swi)


@dataclass(frozen=True)
class Fault:
    """
    One broken input.

    Attributes:
        kind: the row of the table that it counts in.
        name: what is broken, unique within its kind.
        make: called with the intact scan, a folder and the subject's id; writes the files.
        unknowable: why nobody can know of the damage, where nobody can; then findings may differ.
    """

    kind: str
    name: str
    make: Callable[[Scan, Path, str], None]
    unknowable: str = ""


def changed(content: bytes, place: int, value: int) -> bytes:
    """The same bytes but for one, of which the bits of ``value`` are turned over."""
    return content[:place] + bytes([content[place] ^ value]) + content[place + 1 :]


def _plain(content: Callable[[Scan], bytes], ending: str, scan: Scan, folder: Path, subject: str) -> None:
    (folder / f"{subject}_swi.{ending}").write_bytes(content(scan))


def file_of(kind: str, name: str, content: Callable[[Scan], bytes], ending: str = "nii", unknowable: str = "") -> Fault:
    """A fault that is one file, the SWI."""
    return Fault(kind, name, partial(_plain, content, ending), unknowable)


OTHER_SCAN = "the header of another scan, as whole as this one"
MEANS_OTHERWISE = {
    **dict.fromkeys(range(76, 92), OTHER_SCAN),  # qfac and voxel size
    **dict.fromkeys(range(112, 120), OTHER_SCAN),  # scale factor and offset of the values
    **dict.fromkeys(range(256, 328), OTHER_SCAN),  # quaternion, offsets, affine
}
"""Bytes of the header that can have any value."""


def header_faults(seed: int = 1) -> Iterator[Fault]:
    """Each byte of a NIfTI header, changed in one bit; those that tell sizes, types and places, in all bits, too."""
    random = np.random.default_rng(seed)
    for place in range(HEADER):
        told = place < 4 or 40 <= place < 80 or 108 <= place < 124 or 252 <= place < 256 or place >= 344
        for value in (1 << int(random.integers(8)), *([255] if told else [])):
            name = f"byte {place} xor {value}"
            yield file_of(
                "NIfTI header, SWI", name, lambda s, p=place, v=value: changed(s.swi, p, v),
                unknowable=MEANS_OTHERWISE.get(place, ""),
            )  # fmt: skip


def phase_header_faults(seed: int = 2) -> Iterator[Fault]:
    """Bytes of the header of a phase beside an intact SWI."""
    random = np.random.default_rng(seed)

    def make(place: int, value: int, scan: Scan, folder: Path, subject: str) -> None:
        (folder / f"{subject}_swi.nii").write_bytes(scan.swi)
        (folder / f"{subject}_phase.nii").write_bytes(changed(scan.phase, place, value))

    for place in [*range(40, 80), *range(108, 124), *range(252, 256), *range(344, 352)]:
        value = 1 << int(random.integers(8))
        yield Fault("NIfTI header, phase", f"byte {place} xor {value}", partial(make, place, value))


def gzip_faults(seed: int = 3) -> Iterator[Fault]:
    """A compressed file that is cut off, changed, or no such file."""
    random = np.random.default_rng(seed)
    kind, of = "gzip", partial(file_of, "gzip", ending="nii.gz")

    def whole(scan: Scan) -> bytes:
        return gzip.compress(scan.swi, 6, mtime=0)

    def cut(share: float) -> Fault:
        return of(f"cut off after {share:.2%}", lambda s: whole(s)[: int(len(whole(s)) * share)])

    def flipped(place: float, bit: int) -> Fault:
        def content(scan: Scan) -> bytes:
            packed = whole(scan)
            return changed(packed, int(place * len(packed)), 1 << bit)

        return of(f"bit {bit} at {place:.4f} turned over", content)

    yield from (cut(float(share)) for share in random.uniform(0, 1, 12))
    yield from (
        flipped(float(p), int(b)) for p, b in zip(random.uniform(0, 1, 24), random.integers(8, size=24), strict=True)
    )
    yield from (
        of(f"byte {n} of its header changed", lambda s, n=n: changed(whole(s), n, 255)) for n in range(10)
    )  # fmt: skip
    yield from (of(f"byte -{n} changed", lambda s, n=n: changed(whole(s), len(whole(s)) - n, 255)) for n in range(1, 9))
    yield of("empty", lambda s: b"")
    yield of("only the magic bytes", lambda s: b"\x1f\x8b")
    yield of("of nothing", lambda s: gzip.compress(b""))
    yield of("of a header alone", lambda s: gzip.compress(s.swi[:HEADER]))
    yield of("not compressed", lambda s: s.swi)
    yield of("compressed twice", lambda s: gzip.compress(whole(s)))
    yield of("garbage behind it", lambda s: whole(s) + b"garbage" * 99)
    yield of("zeros behind it", lambda s: whole(s) + bytes(512))
    yield of("two scans behind each other", lambda s: whole(s) + whole(s))
    yield of("in two members", lambda s: gzip.compress(s.swi[:5000]) + gzip.compress(s.swi[5000:]))
    yield of("the first member alone", lambda s: gzip.compress(s.swi[: len(s.swi) // 2]))
    yield file_of(kind, "compressed, but named .nii", whole, "nii")
    yield of("text", lambda s: b"<html>404 Not Found</html>")
    # dim 3, 2 and 1 of many; 16 bit. Unpacked it would be up to 70 TB
    for sizes in ((30000, 152, 10), (120, 152, 30000), (32767, 32767, 32767)):
        yield of(f"header that asks for {sizes}", lambda s, n=sizes: gzip.compress(_with_dim(s.swi, n)))
        yield file_of(kind, f"header that asks for {sizes}, not compressed", lambda s, n=sizes: _with_dim(s.swi, n))
    yield of("a gigabyte of zeros behind the scan", lambda s: whole(s) + gzip.compress(bytes(1 << 28)) * 4)


def _with_dim(content: bytes, sizes: tuple[int, int, int]) -> bytes:
    return content[:42] + struct.pack("<3h", *sizes) + content[48:]


def data_faults(seed: int = 4) -> Iterator[Fault]:
    """Voxels that are gone, too many or no numbers, and files that are none."""
    random = np.random.default_rng(seed)
    kind, of = "NIfTI data", partial(file_of, "NIfTI data")
    yield from (
        of(f"cut off after {s:.1%}", lambda x, s=s: x.swi[: int(len(x.swi) * s)]) for s in random.uniform(0, 1, 8)
    )
    for number in (1, 2, 511, 4096, 40000, 400_000):
        yield of(f"{number} bytes behind it", lambda s, n=number: s.swi + bytes(n))
    for number in (1, 2, 240, 36480):
        yield of(f"{number} bytes gone from its middle", lambda s, n=number: s.swi[:90000] + s.swi[90000 + n :])
    yield of("one bit of a voxel", lambda s: changed(s.swi, 200_000, 64), unknowable="no checksum")
    for name, value in (("NaN", np.nan), ("infinity", np.inf), ("1e38", 1e38), ("-1e38", -1e38)):
        for count in (1, 500, 100_000):
            yield of(f"{count} voxels of {name}", lambda s, v=value, n=count: _with_values(s, v, n, seed))
    for name, value in (("0", 0), ("7", 7), ("-5", -5)):
        yield of(f"{name} everywhere", lambda s, v=value: _voxels(s, np.full(s.image.shape, v, np.int16)))
    yield of("noise", lambda s: _voxels(s, np.random.default_rng(5).integers(0, 500, s.image.shape).astype(np.int16)))
    yield of("half of it 0", lambda s: _half(s), unknowable="a slab")
    for kind_of in (np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64, np.complex64):
        # no fault at all but for int8, which wraps; that each type is read as the same
        fault = of(f"as {np.dtype(kind_of).name}", lambda s, k=kind_of: _as_type(s, k))
        yield (
            replace(fault, unknowable="values were lost by whoever converted it")
            if np.dtype(kind_of).itemsize == 1
            else fault
        )
    yield of("big endian", lambda s: _big_endian(s))
    for axes in (2, 4, 5):
        yield of(f"{axes} axes", lambda s, n=axes: _of_axes(s, n))
    yield of("one slice", lambda s: _voxels(s, np.asarray(s.image.dataobj)[:, :, 4:5]))
    yield of("two slices", lambda s: _voxels(s, np.asarray(s.image.dataobj)[:, :, 4:6]))
    yield of("RGB", _rgb)
    yield of("empty", lambda s: b"")
    yield of("a page", lambda s: b"<html><body>404 Not Found</body></html>" * 20)
    yield of("zeros", lambda s: bytes(len(s.swi)))
    yield of("random bytes", lambda s: np.random.default_rng(6).bytes(len(s.swi)))
    yield file_of(kind, "a NIfTI named .mgz", lambda s: s.swi, "mgz")
    yield file_of(kind, "a NIfTI named .nrrd", lambda s: s.swi, "nrrd")
    yield file_of(kind, "a NIfTI named .mha", lambda s: s.swi, "mha")
    yield file_of(kind, "a NIfTI named .hdr", lambda s: s.swi, "hdr")


def _voxels(scan: Scan, voxels: np.ndarray) -> bytes:
    return nib.Nifti1Image(voxels, scan.image.affine).to_bytes()


def _with_values(scan: Scan, value: float, count: int, seed: int) -> bytes:
    voxels = np.asarray(scan.image.dataobj).astype(np.float32)
    voxels.flat[np.random.default_rng(seed).choice(voxels.size, count, replace=False)] = value
    return _voxels(scan, voxels)


def _half(scan: Scan) -> bytes:
    voxels = np.asarray(scan.image.dataobj).copy()
    voxels[:, :, 5:] = 0
    return _voxels(scan, voxels)


def _as_type(scan: Scan, kind: type) -> bytes:
    return nib.Nifti1Image(np.asarray(scan.image.dataobj).astype(kind), scan.image.affine, dtype=kind).to_bytes()


def _big_endian(scan: Scan) -> bytes:
    image = scan.image
    return nib.Nifti1Image(np.asarray(image.dataobj), None, image.header.as_byteswapped(">")).to_bytes()


def _of_axes(scan: Scan, number: int) -> bytes:
    voxels = np.asarray(scan.image.dataobj)
    voxels = (
        voxels[:, :, 4] if number == 2 else np.stack([voxels] * 3, -1).reshape(*voxels.shape, *[1] * (number - 4), 3)
    )
    return _voxels(scan, voxels)


def _rgb(scan: Scan) -> bytes:
    voxels = np.asarray(scan.image.dataobj).astype(np.uint8)
    colour = np.zeros(voxels.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    colour["R"] = voxels
    return nib.Nifti1Image(colour, scan.image.affine).to_bytes()


def special_faults() -> Iterator[Fault]:
    """What has the name of a scan and is no file, or one that is far too large."""
    of = partial(Fault, "special files")

    def named(make: Callable[[Scan, Path], object]) -> Callable[[Scan, Path, str], None]:
        return lambda scan, folder, subject: make(scan, folder / f"{subject}_swi.nii")

    def sparse(scan: Scan, path: Path, sizes: tuple[int, int, int]) -> None:
        """As large as its header says, and of zeros behind the scan that take no place on the disk."""
        path.write_bytes(_with_dim(scan.swi, sizes))
        os.truncate(path, HEADER + 2 * int(np.prod(sizes, dtype=np.int64)))

    def pair(scan: Scan, path: Path) -> None:
        nib.save(nib.Nifti1Pair(np.asarray(scan.image.dataobj), scan.image.affine), path.with_suffix(".hdr"))
        path.with_suffix(".img").unlink()

    yield of("a pipe that nobody writes to", named(lambda s, p: os.mkfifo(p)))
    yield of("a link to nothing", named(lambda s, p: p.symlink_to("nothing")))
    yield of("a link to itself", named(lambda s, p: p.symlink_to(p.name)))
    yield of("a link to its folder", named(lambda s, p: p.symlink_to(p.parent)))
    yield of("a device without end", named(lambda s, p: p.symlink_to("/dev/zero")))
    yield of("a device without content", named(lambda s, p: p.symlink_to("/dev/null")))
    yield of("a header without its image", named(pair))
    for sizes in ((2000, 2000, 3000), (30000, 30000, 30)):
        yield of(f"{sizes} voxels, of which all are there", named(lambda s, p, n=sizes: sparse(s, p, n)))


NRRD = """NRRD0005
type: short
dimension: 3
space: right-anterior-superior
sizes: {0} {1} {2}
space directions: (1.2,0,0) (0,1.2,0) (0,0,2)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (-71.4,-90.6,-9)

"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1.2 1.2 2
DimSize = {0} {1} {2}
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


def text_header_faults(seed: int = 7) -> Iterator[Fault]:
    """NRRD and MetaImage: a line that is gone, twice there, or has another letter or a larger number."""
    for kind, template, ending in (("NRRD header", NRRD, "nrrd"), ("MetaImage header", META, "mha")):
        random = np.random.default_rng(seed)
        lines = template.splitlines()
        for number, line in enumerate(lines):
            if not line:
                continue
            spoilt = {
                "gone": [],
                "twice": [line, line],
                "cut off": [line[: len(line) // 2]],
                "nine times its number": [line.replace("{0}", "9{0}").replace("1", "9")],
                "negative": [line.replace("{2}", "-{2}").replace(" 1.2", " -1.2").replace("(1.2", "(nan")],
                "another letter": [line[: (p := int(random.integers(len(line))))] + "@" + line[p + 1 :]],
            }
            for how, put in spoilt.items():
                text = "\n".join([*lines[:number], *put, *lines[number + 1 :]]) + "\n"
                if text.rstrip() == template.rstrip() or (how == "twice" and "LOCAL" in line):
                    continue
                shape = ("120", "152", "10")
                for place, size in enumerate(shape):
                    text = text.replace(f"{{{place}}}", size)
                other = any(word in line for word in ("irections", "origin", "Matrix", "Offset", "Spacing", "space:"))
                yield file_of(
                    kind, f"line {number + 1} {how}", lambda s, t=text: t.encode() + s.swi[HEADER:], ending,
                    OTHER_SCAN if other else "",
                )  # fmt: skip


def sidecar_faults() -> Iterator[Fault]:
    """The JSON file beside a scan: no JSON, or values of another type."""

    def make(text: bytes, scan: Scan, folder: Path, subject: str) -> None:
        (folder / f"{subject}_swi.nii").write_bytes(scan.swi)
        (folder / f"{subject}_swi.json").write_bytes(text)

    texts = [b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\x00", b"{" * 100_000, b"[" * 100_000,
             b'{"EchoTime": NaN}', b'{"EchoTime": 1e999}']  # fmt: skip
    for name, text in [(repr(text[:20]), text) for text in texts]:
        yield Fault("JSON beside a scan", name, partial(make, text))
    for key in ("EchoTime", "MagneticFieldStrength", "Manufacturer", "Units", "ImageType", "SeriesNumber", "EchoNumber",
                "SeriesDescription", "Modality", "BodyPartExamined", "ScanningSequence"):  # fmt: skip
        for value in (None, [], {}, -1, "text", 10**400, [None, 3], True):
            text = json.dumps({key: value}).encode()
            yield Fault("JSON beside a scan", f"{key}: {value!r:.20}", partial(make, text))


TAGS = (
    "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "PatientID",
    "SeriesNumber", "ImageType", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation", "InstanceNumber", "EchoTime", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept", "PixelData",
    "AcquisitionNumber", "FrameOfReferenceUID", "StudyDate", "MagneticFieldStrength",
)  # fmt: skip
WRONG = {"empty": "", "text": "text", "zero": "0", "negative": "-3", "huge": "1e30"}
SAME_GEOMETRY = {"PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept",
                 "PixelRepresentation", "BitsStored", "HighBit"}  # fmt: skip
"""Tags whose value in all slices alike may be that of another scan."""


def dicom_faults() -> Iterator[Fault]:
    """A series of which one slice or all lack a tag or have another value, files that are cut off, and slices gone."""
    for tag in TAGS:
        for which in ("one", "all"):
            yield _of_series(f"{tag} gone in {which}", which, partial(_without, tag), tag)
            for how, value in WRONG.items():
                yield _of_series(f"{tag} {how} in {which}", which, partial(_with, tag, value), tag)
    for share in (0.0, 0.01, 0.3, 0.9, 0.999):
        yield _of_files(f"one file cut off after {share:.1%}", lambda f, s=share: _cut(f[4], s))
    yield _of_files("a slice gone from the middle", lambda f: f[4].unlink())
    yield _of_files("two slices gone", lambda f: [f[n].unlink() for n in (3, 6)])
    yield _of_files("a slice twice", lambda f: f[4].with_name("again").write_bytes(f[4].read_bytes()))
    yield _of_files("a slice twice, with other pixels", lambda f: _again(f[4]))
    yield _of_files("one slice alone", lambda f: [path.unlink() for path in f[1:]])
    yield _of_files("a preamble of text", lambda f: f[4].write_bytes(b"x" * 128 + f[4].read_bytes()[128:]))
    for place in (132, 140, 160, 200, 300, 400, 600, 800):
        yield _of_files(
            f"byte {place} of a file changed",
            lambda f, p=place: f[4].write_bytes(changed(f[4].read_bytes(), p, 255)),
            unknowable="no checksum" if place >= 600 else "",
        )


def _write_series(scan: Scan, folder: Path, subject: str) -> list[Path]:
    image = scan.image
    study, here = Study(subject, manufacturer="SIEMENS"), folder / subject
    write_dicom_series(here, np.asarray(image.dataobj), image.affine, study, "SWI_Images", 7, r"ORIGINAL\PRIMARY\M\SWI",
                       shuffle=False, field=3, sequence="GR")  # fmt: skip
    return sorted(here.iterdir())


def _of_series(name: str, which: str, spoil: Callable[[Dataset], None], tag: str) -> Fault:
    def make(scan: Scan, folder: Path, subject: str) -> None:
        files = _write_series(scan, folder, subject)
        for path in files[4:5] if which == "one" else files:
            dataset = pydicom.dcmread(path)
            spoil(dataset)
            dataset.save_as(path, enforce_file_format=False)

    alike = which == "all" and tag in SAME_GEOMETRY
    return Fault("DICOM tags", name, make, OTHER_SCAN if alike else "")


def _without(tag: str, dataset: Dataset) -> None:
    if tag in dataset:
        del dataset[tag]


def _with(tag: str, value: str, dataset: Dataset) -> None:
    """Put a raw value in a tag, whatever its type."""
    vr = pydicom.datadict.dictionary_VR(tag).split(" or ")[0]
    if vr in ("US", "SS"):
        number = {"empty": None, "text": 29813, "zero": 0, "negative": 65533, "huge": 65535}
        number = number[next(k for k, v in WRONG.items() if v == value)]
        raw = b"" if number is None else struct.pack("<H", number)
    elif vr in ("OB", "OW"):
        raw = value.encode().ljust(2 * (len(value) + 1) // 2, b"\0")[: 2 * ((len(value) + 1) // 2)]
    else:
        raw = value.encode() + b" " * (len(value) % 2)
    number = Tag(tag)
    if number in dataset:
        del dataset[number]
    dataset._dict[number] = pydicom.dataelem.RawDataElement(number, vr, len(raw), raw, 0, False, True)


def _of_files(name: str, spoil: Callable[[list[Path]], object], unknowable: str = "") -> Fault:
    def make(scan: Scan, folder: Path, subject: str) -> None:
        spoil(_write_series(scan, folder, subject))

    return Fault("DICOM files", name, make, unknowable)


def _cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _again(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path.with_name("again"))


NIFTI = (
    header_faults,
    phase_header_faults,
    gzip_faults,
    data_faults,
    special_faults,
    text_header_faults,
    sidecar_faults,
)


def scan_faults() -> list[Fault]:
    """All that are files in one folder."""
    return [fault for kind in NIFTI for fault in kind()]
