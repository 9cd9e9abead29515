"""A page to review findings and candidates with: one file, which keeps what the reader decides in the browser."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.labels import LabelConvention
from ..data.layouts import find_subjects
from ..dicom.writers import bundle_version
from ..errors import CohortError, InputError, OptionError, SubjectError, root_cause
from ..files import write_whole
from .html import environment, for_script
from .results import SubjectResult, check_scan, places_to_look_at, read_results
from .strips import channels_of, cut_slices, jpeg, on_a_voxel

logger = logging.getLogger(__name__)

LARGE_MB = 25.0
"""A page that is larger is slow to open on many computers."""

SIGN_NOT_KNOWN = "The sign of the phase is not known, so that what is dark in it here may be what is bright."


def write_review(
    results_dir: str | Path | None,
    dataset_dir: str | Path | None,
    output_file: str | Path,
    reading: Callable[[Mapping], Mapping],
    subjects: Sequence[str] | None = None,
    lowest_probability: float = 0.05,
    duplicate_mm: float = 3.0,
    size_mm: float = 32.0,
    pixel_mm: float = 0.5,
    slices: int = 9,
    convention: Mapping | None = None,
    echo: int = -1,
) -> Path:
    """
    Write the page.

    Args:
        results_dir: ``output_dir`` of an inference.
        dataset_dir: of its scans.
        output_file: HTML file to write.
        reading: reads the scan of a subject: from the dictionary of its files to ``image``, ``mask`` and, where there
            is one, ``phase``, all MetaTensor (1, i, j, k) in RAS order; see ``configs/review.json``.
        subjects: only these ids.
        lowest_probability: of candidates on the page.
        duplicate_mm: of two places nearer than this to each other, the less probable one is left out.
        size_mm: edge of the pictures.
        pixel_mm: of the pictures.
        slices: in which a place is shown, an odd number.
        convention: keyword arguments of :class:`LabelConvention`, how the table counts slices and pixels.
        echo: as for :func:`~..data.layouts.find_subjects`.

    Returns:
        the path of the page.

    Raises:
        OptionError: an option has a value that it cannot have.
        SubjectError: there are no results, or no scans.
        CohortError: at the end, if scans could not be read; the page has the others, and names those.
    """
    if not 0 <= lowest_probability <= 1:
        raise OptionError(f"lowest_probability is {lowest_probability!r}; expected a number from 0 to 1.")
    if isinstance(slices, bool) or not isinstance(slices, int) or slices < 3 or slices % 2 == 0:
        raise OptionError(f"slices is {slices!r}; expected an odd number of 3 or more.")
    if not (size_mm > 0 and pixel_mm > 0 and size_mm / pixel_mm <= 512):
        raise OptionError(f"size_mm is {size_mm!r} and pixel_mm {pixel_mm!r}; expected up to 512 pixels above 0 mm.")
    if results_dir is None:
        raise SubjectError("results_dir is not given. Give the output_dir of an inference.")
    if dataset_dir is None:
        raise SubjectError("dataset_dir is not given. The page shows the scans: give the folder that was searched.")
    results = read_results(results_dir, subjects)
    scans = {scan["subject"]: scan for scan in find_subjects(dataset_dir, echo)}
    counts = LabelConvention(**(convention or {}))
    told, cards, failures = [], [], {}
    for result in results:
        try:
            scan = _read_scan(result, scans, reading, dataset_dir)
            places = places_to_look_at(result.content, lowest_probability, duplicate_mm)
            made = _cards(result, scan, places, counts, size_mm, pixel_mm, slices)
        except InputError as error:
            failures[result.subject] = str(root_cause(error))
            logger.error("%s failed: %s", result.subject, failures[result.subject])
            continue
        about = {name: result.content.get(name) or "" for name in ("contrast", "notices", "warnings")}
        if scan.get("sign_guessed"):
            about["warnings"] = f"{about['warnings']} {SIGN_NOT_KNOWN}".strip()
        told.append({"subject": result.subject, **about, "threshold": result.content["probability_threshold"]})
        cards += made
    content = {
        "version": bundle_version(),
        "lowest": lowest_probability,
        "slices": slices,
        "pixels": max(1, round(size_mm / pixel_mm)),
        "size_mm": size_mm,
        "subjects": told,
        "failures": failures,
        "cards": cards,
    }
    content["key"] = _key(cards)
    page = (
        environment()
        .get_template("review.html")
        .render(content=for_script(content), n_subjects=len(told), lowest=lowest_probability, failures=failures)
    )
    path = write_whole(output_file, lambda aside: aside.write_text(page, encoding="utf-8"))
    size = path.stat().st_size / 1e6
    print(f"{len(cards)} cards of {len(told)} subjects, {size:.1f} MB: {path.resolve()}")
    if size > LARGE_MB:
        print(
            f"A page of more than {LARGE_MB:g} MB is slow to open. Raise lowest_probability, or make several pages "
            "with subjects."
        )
    if failures:
        reasons = "\n".join(f"  {name}: {why}" for name, why in failures.items())
        raise CohortError(f"{len(failures)} of {len(results)} subjects are not on the page {path}:\n{reasons}")
    return path


def _read_scan(result: SubjectResult, scans: Mapping, reading: Callable, dataset_dir: str | Path) -> Mapping:
    subject = scans.get(result.subject)
    if subject is None:
        raise SubjectError(
            f"{result.subject}: {dataset_dir} has no scan of this subject; it has those of "
            f"{', '.join(list(scans)[:5])}{', ...' if len(scans) > 5 else ''}. Give the dataset_dir of the results."
        )
    if "error" in subject:
        raise SubjectError(f"{result.subject}: {subject['error']}")
    scan = reading(subject)
    check_scan(result, scan)
    return scan


def _cards(
    result: SubjectResult,
    scan: Mapping,
    places: Sequence[Mapping],
    convention: LabelConvention,
    size_mm: float,
    pixel_mm: float,
    slices: int,
) -> list[dict]:
    """A card for each place; for a subject without any, one card to say that there is none."""
    if not places:
        return [{"subject": result.subject, "lesion": 0, "found": None}]
    channels = channels_of(scan, result.content.get("contrast"))
    affine = np.asarray(scan["image"].affine, dtype=float)
    voxels = np.clip(
        np.array([place["voxel"] for place in places], dtype=float), 0, np.array(result.shape, dtype=float) - 1
    )
    rows = convention.from_voxel(voxels, result.shape)
    cards = []
    for place, row in zip(places, rows, strict=True):
        nearest = on_a_voxel(affine, place["ras_mm"])
        card = {
            "subject": result.subject,
            "lesion": place["candidate"],
            "found": place["lesion"],
            "probability": place.get("probability"),
            "diameter_mm": place.get("diameter_mm"),
            "reason": place["reason"],
            "place": [round(float(number), 2) for number in row],
            "ras_mm": [round(float(mm), 2) for mm in place["ras_mm"]],
            "region": place.get("region"),
            "side": place.get("side"),
            "channels": [channel.name for channel in channels],
            "strip": jpeg(cut_slices(channels, affine, nearest, size_mm, pixel_mm, slices)),
        }
        cards.append(card)
    return cards


def _key(cards: Sequence[Mapping]) -> str:
    """A hash of the places on the page: the same results have the same progress in the browser."""
    told = [[card["subject"], card["lesion"], card.get("place"), card.get("probability")] for card in cards]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
