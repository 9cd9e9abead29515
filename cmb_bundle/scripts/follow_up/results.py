"""What is written of a patient's follow-up: table, JSON, label maps, and a row of the table over all patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from ..files import write_csv, write_json, write_whole
from .comparison import STATEMENT, Comparison, folder_of
from .lesions import NEW, STATUSES, counts
from .scans import relabelled
from .timeline import draw_timeline

FOLDER = "follow_up"
END = "_cmb_follow_up"


def lesions_table(done: Comparison) -> pd.DataFrame:
    """
    The table of a patient.

    Returns:
        a row for each lesion: ``lesion``, its number; ``status`` of the last scan; ``certain``; ``probability``, the
        joint one; ``first_found``, a scan's id; its place in the first scan; and for each scan, with the scan's id
        before it, ``state``, ``status``, ``why``, ``label`` (the number in that scan's own table), ``probability``,
        ``diameter_mm``, and ``region`` and ``side`` where they are known.
    """
    with_regions = any(seen.region for lesion in done.lesions for seen in lesion.seen.values())
    rows = []
    for lesion in done.lesions:
        first = lesion.first_found
        row = {
            "lesion": lesion.number,
            "status": lesion.status,
            "certain": lesion.certain,
            "probability": lesion.probability,
            "first_found": "" if first is None else done.scans[first].session.subject,
        }
        row |= dict(zip(("ras_r_mm", "ras_a_mm", "ras_s_mm"), np.round(lesion.place_mm, 3).tolist(), strict=True))
        for n, scan in enumerate(done.scans):
            seen, name = lesion.seen.get(n), scan.session.subject
            row |= {f"{name}, state": lesion.states[n], f"{name}, status": lesion.statuses[n]}
            row[f"{name}, why"] = lesion.reasons[n]
            row[f"{name}, label"] = seen.label if seen and seen.found else None
            row[f"{name}, probability"] = seen.probability if seen else None
            row[f"{name}, diameter_mm"] = seen.diameter_mm if seen else None
            if with_regions:
                row |= {f"{name}, region": seen.region if seen else "", f"{name}, side": seen.side if seen else ""}
        rows.append(row)
    columns = ["lesion", "status", "certain", "probability", "first_found", "ras_r_mm", "ras_a_mm", "ras_s_mm"]
    return pd.DataFrame(rows, columns=None if rows else columns, dtype=object)


def summary_row(done: Comparison) -> dict:
    """A patient's row of the table over all: the last scan against the first."""
    last, first = done.scans[-1].session, done.scans[0].session
    numbers = counts(done.lesions, len(done.scans) - 1)
    new = numbers.pop("new")
    row = {"patient": done.patient, "scans": len(done.scans), "first": first.subject, "last": last.subject}
    row |= {"new_certain": new["certain"], "new_possible": new["possible"], "new": new["all"]}
    row |= {"new_band_certain": new["band_certain"], "new_band": new["band_all"]}
    row |= {name.replace(" ", "_"): number for name, number in numbers.items()}
    return row | {"notices": " ".join(done.notices), "statement": STATEMENT}


def content(done: Comparison) -> dict:
    """What the JSON of a patient has."""
    scans = []
    for n, (scan, registration) in enumerate(zip(done.scans, done.registrations, strict=True)):
        one = {
            "subject": scan.session.subject,
            "date": scan.session.date,
            "contrast": scan.protocol.contrast,
            "field_tesla": scan.protocol.field_tesla,
            "echo_ms": scan.protocol.echo_ms,
            "voxel_mm": list(scan.protocol.voxel_mm),
            "probability_threshold": scan.threshold,
            "warnings": scan.warnings,
            "microbleeds": sum(number > 0 for number in scan.found),
        }
        if n:
            one |= {
                "to_first": np.round(registration.to_first, 6).tolist(),
                "similarity": registration.similarity,
                "overlap": registration.overlap,
                "fits_elsewhere": registration.away,
                "since_first": counts(done.lesions, n),
            }
        scans.append(one)
    lesions = [
        {
            "lesion": lesion.number,
            "status": lesion.status,
            "certain": lesion.certain,
            "probability": lesion.probability,
            "first_found": None if lesion.first_found is None else done.scans[lesion.first_found].session.subject,
            "ras_mm": np.round(lesion.place_mm, 3).tolist(),
            "scans": [
                {
                    "state": state,
                    "status": status,
                    "why": why,
                    "label": lesion.seen[n].label if n in lesion.seen and lesion.seen[n].found else None,
                    "probability": lesion.seen[n].probability if n in lesion.seen else None,
                    "diameter_mm": lesion.seen[n].diameter_mm if n in lesion.seen else None,
                    "ras_mm": list(lesion.seen[n].ras_mm) if n in lesion.seen else None,
                    "region": (lesion.seen[n].region or None) if n in lesion.seen else None,
                    "side": (lesion.seen[n].side or None) if n in lesion.seen else None,
                }
                for n, (state, status, why) in enumerate(
                    zip(lesion.states, lesion.statuses, lesion.reasons, strict=True)
                )
            ],
        }
        for lesion in done.lesions
    ]
    return {
        "patient": done.patient,
        "statement": STATEMENT,
        "statuses": list(STATUSES),
        "notices": list(done.notices),
        "order": done.order,
        "scans": scans,
        "lesions": lesions,
    }


def clear(output_dir: str | Path, patient: str) -> Path:
    """Remove what an earlier run wrote of a patient; return the folder, which is not made."""
    folder = Path(output_dir) / FOLDER / folder_of(patient)
    for end in (".*", "_sr.dcm"):
        for path in folder.glob(f"*{END}{end}"):
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return folder


def write_comparison(done: Comparison, output_dir: str | Path, picture: bool = True) -> Path:
    """
    Write ``follow_up/<patient>/``: the table, a label map for each scan, the timeline, and last the JSON.

    Returns:
        the folder.
    """
    folder = clear(output_dir, done.patient)
    name = f"{done.folder_name}{END}"
    for n, scan in enumerate(done.scans):
        numbers = [0] * sum(number > 0 for number in scan.found)
        for lesion in done.lesions:
            if n in lesion.seen and lesion.seen[n].found:
                numbers[lesion.seen[n].label - 1] = lesion.number
        image = relabelled(scan, numbers)
        write_whole(folder / f"{scan.session.subject}{END}.nii.gz", lambda path, image=image: nib.save(image, path))
    write_csv(folder / f"{name}.csv", lesions_table(done))
    if picture:
        write_whole(folder / f"{name}.png", lambda path: draw_timeline(path, done, STATEMENT))
    write_json(folder / f"{name}.json", content(done))
    return folder


def write_table(output_dir: str | Path, done: Sequence[dict]) -> Path:
    """Write ``follow_up/follow_up.csv``, a row for each patient; columns as of :func:`summary_row`."""
    return write_csv(Path(output_dir) / FOLDER / "follow_up.csv", pd.DataFrame(list(done)))


def said(done: Comparison) -> str:
    """A patient's line on the screen, one for each warning, and one on an order that is not that of dates."""
    row = summary_row(done)
    shown = ("Warning", "Order of the scans")
    warnings = "".join(f"\n  {notice}" for notice in done.notices if notice.startswith(shown))
    return (
        f"{done.patient}: {row['scans']} scans, since {row['first']} {row['new']} new ({row['new_certain']} certain, "
        f"{row['new_possible']} possible; {NEW} ones of 0, 1-4, 5-9, 10 and more: {row['new_band']}), "
        f"{row['stable']} stable, {row['gone']} gone, "
        f"{row['below_the_threshold_then'] + row['below_the_threshold_now']} below the threshold once, "
        f"{row['cannot_be_told']} cannot be told{warnings}"
    )
