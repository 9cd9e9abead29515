"""Write results as BIDS derivatives."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from ..data.bids import SUBJECT, participant_of
from ..data.results import bids_path, bids_stem, has_label, results_of
from ..errors import SubjectError
from ..files import clear_leftovers, write_json, write_whole

BIDS_VERSION = "1.10.0"
IGNORED = """\
# what BIDS has no name for: pictures, all candidates, the computed SWI, DICOM, tables of this run
**/figures
**/dicom
*_candidates.json
*_desc-cmb_run.json
*_desc-computed_swi.nii.gz
microbleeds.tsv
microbleeds.json
subjects.csv
regions.csv
review.html
failures*.csv
cohort.csv
cohort.html
findings.csv
datalist.json
error.log
"""
README = """\
Cerebral microbleeds that cmb_bundle found. Not for diagnosis.

sub-<label>/[ses-<label>/]anat/<name>_space-orig_desc-cmb_dseg.nii.gz is a label map on the grid of the scan; the .tsv
of the same name has a row for each microbleed, the .json says what was read and what the columns are. The file
microbleeds.tsv has a row for each scan. The files that .bidsignore names are additions to BIDS.
"""
COLUMNS = {
    "index": ("Value of the microbleed in the label map", None),
    "name": ("Name of the microbleed", None),
    "slice": ("Slice, counted as label_convention says, by default from 1", None),
    "x": ("Column in the slice, counted as label_convention says, by default from 1", None),
    "y": ("Row in the slice, counted as label_convention says, by default from 1", None),
    "voxel_i": ("First index of the centre in the image, counted from 0", None),
    "voxel_j": ("Second index of the centre in the image, counted from 0", None),
    "voxel_k": ("Third index of the centre in the image, counted from 0", None),
    "ras_r_mm": ("Centre along the axis to the right of the patient, in the space of the scan", "mm"),
    "ras_a_mm": ("Centre along the axis to the front of the patient, in the space of the scan", "mm"),
    "ras_s_mm": ("Centre along the axis to the head of the patient, in the space of the scan", "mm"),
    "diameter_mm": ("Diameter of the sphere of the same volume", "mm"),
    "detector_score": ("Score of the first stage, 0 to 1", None),
    "classifier_probability": ("Probability of the second stage, 0 to 1", None),
    "probability": ("Probability by both stages, 0 to 1", None),
    "region": ("Region of the Microbleed Anatomical Rating Scale", None),
    "side": ("Side of the patient", None),
    "border_mm": ("Distance to the nearest other region; n/a far from all", "mm"),
    "neighbours": ("Other regions within 2 mm", None),
}  # fmt: skip
"""Columns of the table of microbleeds: what they mean, and their unit."""
COLUMNS_OF_SCANS = {
    "participant_id": "Participant",
    "session_id": "Session of the scan; n/a where there are none",
    "source_id": "Id of the scan in the source data",
    "microbleeds": "Number of microbleeds found; n/a for a scan that could not be read",
    "contrast": "What was read: swi, swi + phase, magnitude + phase or t2star",
    "warnings": "What is outside of the range that was tested, or was guessed",
    "failure": "Why the scan could not be read",
}
COLUMNS_OF_PARTICIPANTS = {
    "scans": "Scans in which microbleeds were looked for",
    "failed_scans": "Scans that could not be read",
    "microbleeds": "Number of microbleeds found in the scan; n/a where there is none or several, as of sessions",
}


class BidsOutput:
    """
    A BIDS derivatives data set of the results.

    Args:
        output_dir: its folder.
        dataset_dir: of the scans, the source data set; a file stands for its folder.
        version: of the bundle; None reads it from its metadata.

    Example:
        >>> BidsOutput("out", "scans").path("sub-01_ses-2", "anat", "_dseg.tsv").as_posix()
        'out/sub-01/ses-2/anat/sub-01_ses-2_dseg.tsv'
        >>> BidsOutput("out", "scans").path("P_1", "anat", "_dseg.tsv").as_posix()
        'out/sub-P1/anat/sub-P1_dseg.tsv'
    """

    def __init__(self, output_dir: str | Path, dataset_dir: str | Path | None, version: str | None = None) -> None:
        self.folder, self.version = Path(output_dir), version
        source = Path(dataset_dir or ".").expanduser().absolute()
        self.source = source.parent if source.is_file() else source

    def path(self, subject: str, datatype: str, end: str) -> Path:
        """The path of a file of a subject in a folder such as anat; its name is the subject's entities and the end."""
        return bids_path(self.folder, subject, datatype, end)

    def files(self, subject: str) -> list[Path]:
        """All files that are there of a subject."""
        found = []
        for datatype in ("anat", "figures", "dicom"):
            start = self.path(subject, datatype, "")
            for path in sorted(start.parent.glob(f"{glob.escape(start.name)}_*")):
                if re.match(r"_(space-orig_desc|desc)-(cmb|computed)_|_cmb_", path.name[len(start.name) :]):
                    found.append(path)
        return found

    def remove(self, subject: str) -> None:
        """Remove all files of an earlier run, and what a killed one left aside in the subject's folders.

        Raises:
            SubjectError: they are of a subject with another id, of which the same name was made.
        """
        sidecar = self.path(subject, "anat", "_space-orig_desc-cmb_dseg.json")
        former = _read(sidecar).get("SourceSubject", subject)
        if former != subject:
            raise SubjectError(
                f"{subject}: {sidecar} is that of the subject {former}, and both ids become {bids_stem(subject)} in "
                "BIDS, where a label has letters and digits alone. Rename one of the subjects, or write the results "
                "to another output_dir."
            )
        results_of(self.folder, subject, "bids").manifest.unlink(missing_ok=True)  # first: from here on not whole
        for path in self.files(subject):
            path.unlink()
        for datatype in ("anat", "figures", "dicom"):
            inner = self.path(subject, datatype, "").parent
            clear_leftovers(inner)
            for folder in (inner, inner.parent, inner.parent.parent):
                if folder != self.folder and folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def write(
        self,
        subject: str,
        result: Mapping,
        label_map,
        table: pd.DataFrame,
        sources: Mapping[str, str],
        **read: object,
    ) -> None:
        """
        Write label map, table of microbleeds and what is known of them.

        Args:
            subject: identifier.
            result: ``microbleeds`` and ``candidates``, see :class:`~.findings.Findingsd`.
            label_map: MetaTensor (1, i, j, k) on the input's grid.
            table: of the microbleeds, see :func:`~.writers.findings_table`.
            sources: paths of the images that were read, the reference first.
            read: further entries of the JSON files, such as how the subject was read.
        """
        image = nib.Nifti1Image(np.asarray(label_map[0].cpu(), dtype=np.int16), np.asarray(label_map.affine, float))
        image.header.set_xyzt_units("mm", "sec")
        start = "_space-orig_desc-cmb_dseg"
        write_whole(self.path(subject, "anat", f"{start}.nii.gz"), lambda aside: nib.save(image, aside))
        numbers = table["lesion"].tolist()
        own = int(np.asarray(image.dataobj).max(initial=0)) >= max(numbers, default=0)
        rows = table.rename(columns={"lesion": "index"})
        rows.insert(1, "name", [f"microbleed {number}" for number in numbers])
        write_tsv(self.path(subject, "anat", f"{start}.tsv"), rows)
        links = [self._uri(Path(path)) for path in sources.values()]
        about = {
            "Description": "Cerebral microbleeds, each with a value of its own; not for diagnosis",
            "SpatialReference": links[0] if links else "the grid of the scan",
            "Sources": links,
            "Manual": False,
            "SourceSubject": subject,
            "Microbleeds": len(numbers),
            "ProbabilityThreshold": result.get("probability_threshold"),
            **{"".join(word.title() for word in key.split("_")): value for key, value in read.items()},
        }
        columns = {
            name: {"Description": COLUMNS[name][0]} | ({"Units": COLUMNS[name][1]} if COLUMNS[name][1] else {})
            for name in rows
        }
        if not own:
            about["Description"] = "Cerebral microbleeds, all with the value 1; not for diagnosis"
            columns["index"]["Description"] = "Number of the microbleed; in the label map all have the value 1"
        write_json(self.path(subject, "anat", f"{start}.json"), about | columns)
        write_json(self.path(subject, "anat", "_desc-cmb_candidates.json"), {"subject": subject, **read, **result})

    def finish(self, failures: Mapping[str, str]) -> None:
        """
        Write what is about the whole data set: its description, ``participants.tsv``, and ``microbleeds.tsv`` with a
        row for each scan, which BIDS has no name for.

        Rows of scans that were done in an earlier run stay, so that a cohort can be done in several runs.

        Args:
            failures: subject to reason, of those that failed in this run.
        """
        self._describe()
        rows = {}
        for path in sorted(self.folder.glob("sub-*/**/*_space-orig_desc-cmb_dseg.json")):
            about = _read(path)
            read = {"microbleeds": about.get("Microbleeds"), "contrast": about.get("Contrast")}
            rows[about.get("SourceSubject")] = read | {"warnings": about.get("Warnings"), "failure": None}
        target = self.folder / "microbleeds.tsv"
        if target.is_file():
            former = pd.read_csv(target, sep="\t", dtype=str, keep_default_na=False).to_dict("records")
            failed = {row["source_id"]: row["failure"] for row in former if row["failure"] != "n/a"}
            failures = {name: reason for name, reason in failed.items() if name not in rows} | dict(failures)
        rows |= {name: {"failure": reason} for name, reason in failures.items()}
        # an id that no BIDS label can be made of has failed for that, and has no row
        rows = {name: row for name, row in rows.items() if has_label(name)}
        table = pd.DataFrame(
            [
                {
                    "participant_id": participant_of(bids_stem(name)),
                    "session_id": SUBJECT.match(bids_stem(name))["session"],
                    "source_id": name,
                    **row,
                }
                for name, row in sorted(rows.items())
            ],
            columns=list(COLUMNS_OF_SCANS),
        )
        write_tsv(target, table.mask(table == ""))
        write_json(
            target.with_suffix(".json"), {name: {"Description": text} for name, text in COLUMNS_OF_SCANS.items()}
        )
        done = table[table["microbleeds"].notna()]
        scans = done["participant_id"].value_counts()
        people = pd.DataFrame({"participant_id": sorted(set(done["participant_id"]))})  # each has a folder
        for name, part in (("scans", done), ("failed_scans", table.drop(done.index))):
            people[name] = people["participant_id"].map(part["participant_id"].value_counts()).fillna(0).astype(int)
        single = done[done["participant_id"].map(scans) == 1].set_index("participant_id")["microbleeds"]
        people["microbleeds"] = people["participant_id"].map(single).astype("Int64")
        write_tsv(self.folder / "participants.tsv", people)
        described = {name: {"Description": text} for name, text in COLUMNS_OF_PARTICIPANTS.items()}
        write_json(self.folder / "participants.json", described)

    def _describe(self) -> None:
        target = self.folder / "dataset_description.json"
        links = dict(_read(target).get("DatasetLinks") or {}) | {self._link(): self.source.as_uri()}
        content = {
            "Name": "Cerebral microbleeds",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "cmb_bundle", "Version": self.version or _version()}],
            "SourceDatasets": [{"URL": url} for url in links.values()],
            "DatasetLinks": links,
        }
        write_json(target, content)
        for name, text in ((".bidsignore", IGNORED), ("README", README)):
            write_whole(self.folder / name, lambda aside, text=text: aside.write_text(text, encoding="utf-8"))

    def _link(self) -> str:
        """The name of the source data set among the links: raw, or raw2 where raw is another one."""
        links = _read(self.folder / "dataset_description.json").get("DatasetLinks") or {}
        known = [name for name, url in links.items() if url == self.source.as_uri()]
        return known[0] if known else f"raw{len(links) + 1}" if links else "raw"

    def _uri(self, path: Path) -> str:
        path = path.absolute()
        within = path.is_relative_to(self.source)
        return f"bids:{self._link()}:{path.relative_to(self.source).as_posix()}" if within else path.as_uri()


def write_tsv(path: str | Path, table: pd.DataFrame) -> Path:
    """Write a table as BIDS has them: tabs between the columns, n/a for what is not there."""
    plain = table.map(lambda value: " ".join(value.split()) if isinstance(value, str) else value)
    return write_whole(path, lambda aside: plain.to_csv(aside, sep="\t", index=False, na_rep="n/a"))


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _version() -> str:
    metadata = Path(__file__).resolve().parents[2] / "configs" / "metadata.json"
    return str(_read(metadata).get("version", ""))
