"""Our app on a real Orthanc: SWI and phase over DICOMweb, annotations as DICOM SEG, and OHIF in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import requests

from tests.helpers.dicom_series import Study, write_dicom_series

from .client import Client, check_label_map, corrected_label, hits, truth_of
from .servers import free_port, monai_label, orthanc

APP = Path(__file__).parents[2] / "apps" / "monailabel"
SWI = r"ORIGINAL\PRIMARY\M\SWI\NORM\ND"
MAGNITUDE = r"ORIGINAL\PRIMARY\M\ND\NORM"
PHASE = r"ORIGINAL\PRIMARY\P\ND"
SIEMENS = {"Magnitude": ("Mag_Images", 4, MAGNITUDE), "Phase": ("Pha_Images", 5, PHASE), "SWI": ("SWI", 7, SWI)}
"""Of each kind SeriesDescription, SeriesNumber and ImageType."""
GE = {kind: ("Ax SWAN", number, r"ORIGINAL\PRIMARY\OTHER") for kind, number in (("SWI", 7), ("Phase", 5))}
"""Only the private (0043,102F) tells these apart."""
LABELS = [{"name": "microbleed", "model_name": "cmb_bundle"}]


def run(python: Path, cohort: Path, folder: Path, pictures: Path) -> None:
    """Go through it all; a failed assertion says where it ended."""
    pacs_port, port = free_port(), free_port()
    pacs, url = f"http://127.0.0.1:{pacs_port}", f"http://127.0.0.1:{port}"
    app = folder / "app"
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__", "model", "logs", "bin", "trainings"))
    conf = {"bundle": str(APP.parents[1] / "cmb_bundle")}
    with orthanc(folder, pacs_port):
        series = {path.name.split(".")[0]: send(cohort, path, pacs) for path in (cohort / "Data" / "SWI").glob("*.gz")}
        with monai_label(python, app, f"{pacs}/dicom-web", conf, folder, port):
            check_server(Client(url), pacs, cohort, series, folder)
            ill = max(series, key=lambda subject: len(truth_of(cohort, subject)))
            picture = pictures / "monai_label_ohif.png"
            study = tag(pacs, series[ill], "StudyInstanceUID")
            # back to the shipped weights, as the page on MONAI Label says
            (app / "model" / "cmb_bundle" / "models" / "retrained.pt").unlink()
            slices = [m["voxel"][2] for m in Client(url).infer(series[ill])["microbleeds"]]
            fullest = max(map(round, slices), key=lambda n: sum(abs(n - k) < 1 for k in slices))
            script = [str(python), str(Path(__file__).with_name("ohif.py")), url, study, series[ill]]
            subprocess.run([*script, str(fullest), str(picture)], check=True, timeout=900)


def check_server(client: Client, pacs: str, cohort: Path, series: dict[str, str], folder: Path) -> None:
    """The whole round, for scans with microbleeds and for one without."""
    ill = [s for s in sorted(series) if truth_of(cohort, s)]
    well = next(s for s in sorted(series) if not truth_of(cohort, s))
    info = client.info()
    assert info["datastore"]["total"] == len(series), "only the SWI series are scans to annotate"
    assert list(info["strategies"]) == ["uncertain", "random", "first"]

    results, found = {}, 0
    for subject in [*ill, well]:
        results[subject] = client.infer(series[subject])
        assert "Phase" in results[subject]["notices"] and "No phase" not in results[subject]["notices"]
        found += hits(results[subject], truth_of(cohort, subject))
    true = sum(len(truth_of(cohort, s)) for s in ill)
    print(f"DICOMweb: {found} of {true} microbleeds of {len(ill)} scans were found", flush=True)
    assert 2 * found >= true
    image = next(folder.rglob(f"{series[ill[0]]}.nii.gz"))
    check_label_map(client.infer_file(series[ill[0]], folder / "found.nii.gz"), image, results[ill[0]])

    check_next(client, series)
    check_result_as_seg(client, series[ill[0]], folder, len(results[ill[0]]["microbleeds"]))

    for subject in (ill[0], well):
        check_annotation(client, pacs, series[subject], truth_of(cohort, subject), folder)
    assert client.info()["datastore"]["completed"] == 2
    assert client.next_sample("uncertain")["id"] not in (series[ill[0]], series[well])

    kept = {path.name: np.asarray(nib.load(path).dataobj) > 0 for path in folder.rglob("labels/final/*.nii.gz")}
    assert len(kept) == 2
    for path in folder.rglob("labels/final/*.nii.gz"):
        path.unlink()
    pairs = client.ask("GET", "/datastore/?output=train").json()
    assert len(pairs) == 2
    for pair in pairs:
        again = np.asarray(nib.load(pair["label"]).dataobj) > 0
        assert np.array_equal(again, kept[Path(pair["label"]).name]), "the SEG is not what was saved"

    client.train(max_epochs=1, device="cpu", run_id="")
    assert client.info()["models"]["cmb_bundle"]["config"]["model_filename"] == ["retrained.pt", "model.pt"]
    trained = client.infer(series[ill[0]])
    assert trained["candidates"] != results[ill[0]]["candidates"], "the retrained weights are not in use"
    shipped = client.infer(series[ill[0]], model_filename="model.pt")
    assert shipped["candidates"] == results[ill[0]]["candidates"], "the shipped weights have changed"
    print("DICOMweb: annotated, stored as SEG, read again and trained on", flush=True)


def send(cohort: Path, swi: Path, pacs: str) -> str:
    """
    Write a phantom as a study and send it; returns the UID of its SWI series.

    The scanner is of Siemens, or of GE for phantoms without microbleeds.
    """
    subject = swi.name.split(".")[0]
    is_ge = not truth_of(cohort, subject)
    study = Study(subject, manufacturer="GE MEDICAL SYSTEMS" if is_ge else "SIEMENS")
    with tempfile.TemporaryDirectory() as scratch:
        written = {}
        for kind, (description, number, image_type) in (GE if is_ge else SIEMENS).items():
            scan = nib.load(cohort / "Data" / kind / swi.name)
            values, more = scan.get_fdata(), {"ge": int(kind == "Phase"), "bits": 16} if is_ge else {}
            if kind == "Phase" and is_ge:
                values = values * 1000
            elif kind == "Phase":
                values, more = ((values / np.pi + 1) * 2048).clip(0, 4095), {"slope": 2, "intercept": -4096}
            else:
                values = values * (4000 / values.max())
            stored, place = np.round(values).astype(int), Path(scratch) / kind
            written[kind] = write_dicom_series(
                place, stored, scan.affine, study, description, number, image_type, **more
            )
        for file in Path(scratch).rglob("IM*"):
            requests.post(f"{pacs}/instances", data=file.read_bytes(), timeout=60).raise_for_status()
    return written["SWI"]


def find(pacs: str, **query: str) -> list[str]:
    """Orthanc's own ids of series."""
    content = {"Level": "Series", "Query": query}
    return requests.post(f"{pacs}/tools/find", data=json.dumps(content), timeout=60).json()


def tag(pacs: str, series: str, name: str) -> str:
    """An attribute of a series' first image."""
    instance = requests.get(f"{pacs}/series/{find(pacs, SeriesInstanceUID=series)[0]}", timeout=60).json()["Instances"][
        0
    ]
    return requests.get(f"{pacs}/instances/{instance}/simplified-tags", timeout=60).json()[name]


def check_next(client: Client, series: dict[str, str]) -> None:
    """The most uncertain scan comes first, then the others in their order."""
    offered = [client.next_sample("uncertain") for _ in range(len(series))]
    assert sorted(one["id"] for one in offered) == sorted(series.values()), "each scan once before one comes again"
    degrees = [one["uncertainty"] for one in offered if one["uncertainty"] is not None]
    assert degrees == sorted(degrees, reverse=True), degrees
    assert offered[-1]["not_scored"] == 0


def check_result_as_seg(client: Client, image: str, folder: Path, number: int) -> None:
    """A result is a SEG, marked as a program's; also where there is nothing in it."""
    path = client.infer_file(image, folder / "found.dcm", "dicom_seg", label_info=LABELS)
    seg = highdicom.seg.segread(path)
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"AUTOMATIC"}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image
    assert 1 <= seg.number_of_segments <= max(1, number)
    path = client.infer_file(image, folder / "none.dcm", "dicom_seg", label_info=LABELS, probability_threshold=1.0)
    empty = highdicom.seg.segread(path)
    assert not empty.pixel_array.any()


def check_annotation(client: Client, pacs: str, image: str, microbleeds: list[dict], folder: Path) -> None:
    """What an annotator saves is a SEG on the server, with the same voxels."""
    scan = next(folder.rglob(f"{image}.nii.gz"))
    label = corrected_label(scan, microbleeds, folder / f"annotated-{image}.nii.gz")
    before = set(find(pacs, Modality="SEG"))
    client.save_label(image, label, label_info=LABELS)
    new = set(find(pacs, Modality="SEG")) - before
    assert len(new) == 1
    instances = requests.get(f"{pacs}/series/{new.pop()}", timeout=60).json()["Instances"]
    assert len(instances) == 1
    file = folder / f"stored-{image}.dcm"
    file.write_bytes(requests.get(f"{pacs}/instances/{instances[0]}/file", timeout=60).content)
    seg = highdicom.seg.segread(file)
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image
    grid = nib.load(label)
    stored, wanted = np.zeros(grid.shape, dtype=bool), np.asarray(grid.dataobj) > 0
    frames = np.asarray(pydicom.dcmread(file).pixel_array).reshape(-1, seg.Rows, seg.Columns)
    to_voxel = np.linalg.inv(grid.affine) @ np.diag([-1.0, -1.0, 1.0, 1.0])
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        corner = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        i, j, k = (to_voxel @ [*corner, 1.0])[:3].round().astype(int)
        assert (i, j) == (0, 0)
        stored[:, :, k] |= frame.T > 0
    assert np.array_equal(stored, wanted)
    assert stored.any() == bool(microbleeds)
