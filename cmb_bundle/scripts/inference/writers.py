"""Write each subject's results and print a summary."""

from __future__ import annotations

import glob
import json
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sized
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from ..data.ids import namesakes, problem_of_id
from ..data.labels import LabelConvention
from ..data.results import results_of
from ..dicom.writers import write_dicom
from ..errors import DicomError, SubjectError
from ..files import aside_of, raise_unwritable, replace_folder, write_csv, write_json, write_whole
from ..options import check_flags
from ..pages.patient import write_patient_page
from ..regions.pictures import draw_regions
from .bids_output import BidsOutput
from .findings import to_file_grid
from .pictures import draw_findings
from .quality import copies, scan_quality

logger = logging.getLogger(__name__)

TABLE_HEADER = [
    "lesion", "slice", "x", "y", "voxel_i", "voxel_j", "voxel_k", "ras_r_mm", "ras_a_mm", "ras_s_mm",
    "diameter_mm", "detector_score", "classifier_probability", "probability",
]  # fmt: skip
REGION_COLUMNS = ["region", "side", "border_mm", "neighbours"]
"""Further columns, where regions were asked for."""

MOST_SAID = 200
"""Lines of one kind that the summary on the screen has."""


def findings_table(microbleeds: list[dict], shape: tuple, convention: LabelConvention) -> pd.DataFrame:
    """
    The table of microbleeds, which can be read again as labels.

    Args:
        microbleeds: as in ``result["microbleeds"]`` of :class:`Findingsd`.
        shape: (i, j, k) of the input.
        convention: how ``slice``, ``x`` and ``y`` count; they are rounded to whole pixels.

    Returns:
        one row per microbleed with the columns ``TABLE_HEADER``, in the order of the label map; where
        regions were asked for, also ``REGION_COLUMNS``.
    """
    voxel = np.array([m["voxel"] for m in microbleeds]).reshape(-1, 3)
    inside = np.clip(np.round(voxel), 0, np.array(shape) - 1)
    pixels = np.asarray(convention.from_voxel(inside, shape)).round().astype(int).reshape(-1, 3).tolist()
    rows = [
        {
            "lesion": number,
            **dict(zip(("slice", "x", "y"), pixel, strict=True)),
            **dict(zip(("voxel_i", "voxel_j", "voxel_k"), microbleed["voxel"], strict=True)),
            **dict(zip(("ras_r_mm", "ras_a_mm", "ras_s_mm"), microbleed["ras_mm"], strict=True)),
            **{name: microbleed[name] for name in TABLE_HEADER[10:]},
        }
        for number, (pixel, microbleed) in enumerate(zip(pixels, microbleeds, strict=True), 1)
    ]
    columns = TABLE_HEADER
    if microbleeds and "region" in microbleeds[0]:
        columns = [*TABLE_HEADER, *REGION_COLUMNS]
        for row, microbleed in zip(rows, microbleeds, strict=True):
            row |= {name: microbleed[name] for name in REGION_COLUMNS[:3]}
            row["neighbours"] = "; ".join(microbleed["neighbours"])
    return pd.DataFrame(rows, columns=columns)


def write_findings(
    output_dir: str | os.PathLike,
    subject: str,
    result: Mapping,
    label_map,
    convention: LabelConvention | None = None,
    **more: object,
) -> Path:
    """
    Write ``<subject>_cmb.nii.gz``, ``_cmb.csv`` and ``_cmb.json`` into ``<output_dir>/<subject>/``.

    Args:
        output_dir: folder of all subjects' results.
        subject: identifier.
        result: ``microbleeds`` and ``candidates``, see :class:`Findingsd`.
        label_map: MetaTensor (1, i, j, k) on the input's grid.
        convention: how the table counts slices and pixels; the data set's by default.
        more: further entries of the JSON, such as how the subject was read.

    Returns:
        the subject's folder.
    """
    folder = Path(output_dir) / subject
    array = np.asarray(label_map[0].cpu(), dtype=np.int16)
    image = nib.Nifti1Image(array, np.asarray(label_map.affine, dtype=float))
    image.header.set_xyzt_units("mm")
    write_whole(folder / f"{subject}_cmb.nii.gz", lambda aside: nib.save(image, aside))
    table = findings_table(result["microbleeds"], array.shape, convention or LabelConvention())
    write_csv(folder / f"{subject}_cmb.csv", table)
    write_json(folder / f"{subject}_cmb.json", {"subject": subject, **more, **result})
    return folder


class SubjectWriter:
    """
    Write each subject's results as soon as it is done, and say on the screen what was found.

    Args:
        output_dir: folder of results.
        convention: keyword arguments of :class:`LabelConvention`, for the table's slice, x and y.
        patient_page: whether to write ``<subject>_cmb.html``, see :func:`~..pages.patient.write_patient_page`.
        picture: whether to write ``<subject>_cmb.png`` too. Of a subject with regions ``<subject>_cmb_regions.png`` is
            always written, since a wrong registration is seen there.
        dicom_output: whether to write ``<subject>_cmb_seg.dcm`` and ``_cmb_sr.dcm`` too: ``"auto"`` where the source
            is DICOM; where that can't be done, the other results are kept and the subject goes into the engine's
            ``incomplete``, its JSON has ``dicom_error``. True makes it the subject's failure.
        output_layout: ``"default"``, a folder for each subject; or ``"bids"``, derivatives, see :class:`BidsOutput`.
        dataset_dir: of the scans, which BIDS derivatives name as their source.

    Raises:
        ValueError: ``dicom_output`` or ``output_layout`` is none of the values above.
    """

    def __init__(
        self,
        output_dir: str | Path,
        convention: Mapping | None = None,
        picture: bool = True,
        dicom_output: str | bool = "auto",
        output_layout: str = "default",
        dataset_dir: str | Path | None = None,
        patient_page: bool = False,
    ) -> None:
        check_flags(picture=picture, patient_page=patient_page)
        self.patient_page = patient_page
        if dicom_output not in ("auto", True, False):
            raise ValueError(
                f"dicom_output is {dicom_output!r}; expected 'auto', true or false, on the command line True or False "
                "with a capital letter."
            )
        if output_layout not in ("default", "bids"):
            raise ValueError(f"output_layout is {output_layout!r}; expected 'default' or 'bids'.")
        self.dicom_output = dicom_output
        self.layout = output_layout
        self.bids = BidsOutput(output_dir, dataset_dir) if output_layout == "bids" else None
        self.output_dir = Path(output_dir)
        self.convention = LabelConvention(**(convention or {}))
        self.picture = picture
        self.found: dict[str, list[dict]] = {}
        self.read: dict[str, dict[str, str | None]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _: self.forget())
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.remove_stale)
        if self.bids:
            engine.add_event_handler(Events.COMPLETED, lambda e: self.bids.finish(getattr(e, "failures", {})))
        engine.add_event_handler(Events.COMPLETED, self.print_found)

    def write(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            subject, result = batch["subject"], output["result"]
            read = {
                "contrast": batch.get("contrast"),
                "notices": batch["notices"],
                # what comes after the detection may warn too
                "warnings": result.get("warnings", batch.get("warnings", "")),
            }
            reason = (self._write_among if self.bids else self._replace)(engine, batch, output, read)
            if reason and not hasattr(engine, "incomplete"):
                raise DicomError(f"{subject}: {reason}")
            if reason:
                engine.incomplete[subject] = reason
            self.found[subject], self.read[subject] = result["microbleeds"], read
            found, of = (_number(result[kind], kind[:-1]) for kind in ("microbleeds", "candidates"))
            logger.info(f"{subject}: {found} of {of}. {batch['notices']}")

    def forget(self) -> None:
        """Forget the subjects so far."""
        self.found.clear()
        self.read.clear()

    def recall(self, engine: Engine, subject: str) -> None:
        """Read what is said at the end of a subject that is done, from its JSON."""
        content = json.loads(results_of(self.output_dir, subject, self.layout).content.read_text(encoding="utf-8"))
        names = ("contrast", "notices", "warnings", "dicom_error")
        self.found[subject], self.read[subject] = content["microbleeds"], {n: content[n] for n in names if n in content}
        if "dicom_error" in content:
            engine.incomplete[subject] = content["dicom_error"]

    def _replace(self, engine: Engine, batch: Mapping, output: Mapping, read: dict) -> str:
        """Write a subject's folder aside and put it into its place in one step; return as :meth:`_write_dicom`."""
        subject = batch["subject"]
        aside = aside_of(self.output_dir / subject)
        try:
            reason = self._write_files(aside, batch, output, read)
            files = {path.name: path for path in (aside / subject).iterdir()}
            self._write_manifest(engine, results_of(aside, subject, "default").manifest, files, batch, reason)
            replace_folder(aside / subject, self.output_dir / subject)
        except OSError as error:
            raise_unwritable(error, self.output_dir / subject)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return reason

    def _write_among(self, engine: Engine, batch: Mapping, output: Mapping, read: dict) -> str:
        """Write a subject's BIDS derivatives, which lie among those of others; return as :meth:`_write_dicom`."""
        subject = batch["subject"]
        self._remove(subject)
        try:
            reason = self._write_files(self.output_dir, batch, output, read)
            files = {path.relative_to(self.output_dir).as_posix(): path for path in self.bids.files(subject)}
            manifest = results_of(self.output_dir, subject, "bids").manifest
            self._write_manifest(engine, manifest, files, batch, reason)
        except OSError as error:
            raise_unwritable(error, self.output_dir)
            raise
        return reason

    def _write_files(self, root: Path, batch: Mapping, output: Mapping, read: dict) -> str:
        """Write all files of a subject but the manifest; ``read`` gets the DICOM error. Return as `_write_dicom`."""
        subject, result, swi, warnings = batch["subject"], output["result"], batch["swi"], read["warnings"]
        numbered = output.get("numbered", output["pred"])  # a DICOM segment is one microbleed
        folder = self._path(root, subject, "dicom", "").parent
        reason = self._write_dicom(folder, subject, batch.get("dicom_source"), result, numbered, warnings)
        if reason:
            read["dicom_error"] = reason
        if self.bids:
            table = findings_table(result["microbleeds"], tuple(output["pred"].shape[1:]), self.convention)
            sources = json.loads(batch.get("sources") or "{}")
            self.bids.write(subject, result, output["pred"], table, sources, **read)
        else:
            write_findings(root, subject, result, output["pred"], self.convention, **read)
        if batch.get("swi_computed"):
            self._write_swi(self._path(root, subject, "anat", "_cmb_swi.nii.gz", "_desc-computed_swi.nii.gz"), swi)
        if self.picture:
            picture = self._path(root, subject, "figures", "_cmb.png", "_desc-cmb_dseg.png")
            write_whole(picture, lambda path: draw_findings(path, subject, swi, result, warnings, self.convention))
        if "region_map" in output:
            picture = self._path(root, subject, "figures", "_cmb_regions.png", "_desc-regions_dseg.png")
            write_whole(picture, lambda path: draw_regions(path, subject, swi, output["region_map"], result, warnings))
        if self.patient_page:
            page = self._path(root, subject, "figures", "_cmb.html", "_desc-cmb_report.html")
            write_patient_page(page, subject, batch, result, read, output.get("region_map"))
        return reason

    def _path(self, root: Path, subject: str, datatype: str, end: str, bids_end: str = "") -> Path:
        """The path of a subject's file, which is named otherwise in BIDS derivatives."""
        if self.bids:
            return self.bids.path(subject, datatype, bids_end)
        return root / subject / f"{subject}{end}"

    @staticmethod
    def _write_manifest(
        engine: Engine, manifest: Path, files: Mapping[str, Path], batch: Mapping, incomplete: str
    ) -> None:
        """Write what the results were made from, last, so that who finds it finds them whole."""
        if not batch.get("made_from"):
            return
        seconds = float(batch["read_seconds"]) + time.monotonic() - getattr(engine, "began", math.nan)
        content = {
            "subject": batch["subject"],
            "made_from": json.loads(batch["made_from"]),
            "results": {name: path.stat().st_size for name, path in sorted(files.items())},
            "incomplete": bool(incomplete),
            "scan": scan_quality(batch),
            "seconds": round(seconds, 2) if math.isfinite(seconds) else None,
        }
        write_json(manifest, content)

    def _write_dicom(
        self, folder: Path, subject: str, source: str | None, result: Mapping, label_map, warnings: str
    ) -> str:
        """Write SEG and SR; the reason why they could not be, if the other results are to be kept then, else empty."""
        if self.dicom_output is False or (self.dicom_output == "auto" and source is None):
            return ""
        if source is None:
            raise DicomError("dicom_output is true, but the scan is not DICOM; set it to auto or false.")
        try:
            write_dicom(folder, subject, source, result, label_map, warnings=warnings)
        except Exception as error:
            if self.dicom_output is True:
                raise
            (folder / f"{subject}_cmb_seg.dcm").unlink(missing_ok=True)  # without its SR
            reason = f"no DICOM SEG and SR were written ({type(error).__name__}: {error}); all other results were. "
            reason += "If they are not needed, set dicom_output to False."
            logger.error(f"{subject}: {reason}")
            return reason
        return ""

    def remove_stale(self, engine: Engine) -> None:
        """Remove what an earlier run wrote of subjects that failed in this one."""
        for subject in getattr(engine, "failures", ()):
            with suppress(SubjectError):  # of BIDS, where the files are those of another subject
                self._remove(subject)

    def _remove(self, subject: str) -> None:
        """Remove all files of an earlier run, of which this one may not write each (a picture, a DICOM report)."""
        if problem_of_id(subject):  # it never had a folder, and asking for one is an error
            return
        if self.bids:
            self.bids.remove(subject)
            return
        for path in (self.output_dir / subject).glob(f"{glob.escape(subject)}_cmb*"):
            path.unlink()

    @staticmethod
    def _write_swi(path: Path, swi) -> None:
        affine, shape = (
            np.asarray(swi.meta["original_affine"]),
            tuple(int(n) for n in swi.meta["spatial_shape"]),
        )
        image = to_file_grid(swi[0].numpy(), swi.affine.numpy(), affine, shape)
        write_whole(path, lambda aside: nib.save(nib.Nifti1Image(image[0].numpy(), affine), aside))

    def print_found(self, engine: Engine) -> None:
        """Print one row per microbleed, the count for each subject, what was read, and the warnings."""
        self.found, self.read = dict(sorted(self.found.items())), dict(sorted(self.read.items()))
        rows = [
            {"subject": subject, "lesion": number, **dict(zip("ijk", bleed["voxel"], strict=True)),
             **dict(zip("RAS", bleed["ras_mm"], strict=True)), "diameter_mm": bleed["diameter_mm"],
             "probability": bleed["probability"]}
            for subject, bleeds in self.found.items() for number, bleed in enumerate(bleeds, 1)
        ]  # fmt: skip
        if rows:
            print("\nMicrobleeds found (voxel of the input, RAS in mm)")
            print(pd.DataFrame(rows[:MOST_SAID]).round(2).to_string(index=False))
            print(_more(len(rows)), end="")
        none = [subject for subject, bleeds in self.found.items() if not bleeds]
        without = (", ".join(none[:MOST_SAID]) or "-") + (", ..." if len(none) > MOST_SAID else "")
        print(f"\n{_number(rows, 'microbleed')} in {_number(self.found, 'subject')}; subjects with none: {without}")
        contrasts = Counter(read["contrast"] for read in self.read.values() if read["contrast"])
        if contrasts:
            print(f"Read: {', '.join(f'{contrast} ({number})' for contrast, number in sorted(contrasts.items()))}")
        said = [
            f"Warning: {subject}: {text}"
            for subject, read in self.read.items()
            for text in (read["warnings"], read.get("dicom_error"))
            if text
        ]
        said += [
            f"Warning: {', '.join(group)}: these scans hold the same values; they may be copies of one."
            for group in copies(self.output_dir, self.found, self.layout)
        ]
        said += [
            f"Warning: {other} and {subject} are counted as two subjects; by their names they may be one person's scan "
            "and an image made from it."
            for subject, other in namesakes(self.found).items()
        ]
        print("".join(f"{line}\n" for line in said[:MOST_SAID]) + _more(len(said)), end="")
        if getattr(engine, "skipped", ()):
            print(
                f"{len(engine.skipped)} of them were done before, from the same files, weights and options, and are as "
                "they were; --resume False does them again."
            )
        print(f"Results are in {self.output_dir.resolve()}")


def _number(of: Sized, thing: str) -> str:
    """How many things, as ``1 microbleed`` or ``2 microbleeds``."""
    return f"{len(of)} {thing}{'s' * (len(of) != 1)}"


def _more(number: int) -> str:
    """What is said of the lines that are too many for a screen."""
    return f"... and {number - MOST_SAID} more, in the files of the subjects\n" if number > MOST_SAID else ""
