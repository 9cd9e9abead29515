"""How well readers agree with each other and with the program: per lesion, per scan, by region."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.label_files import read_decisions, subjects_of_table
from ..data.labels import LabelConvention, read_points
from ..errors import CohortError, InputError, LabelError, OptionError, SubjectError
from ..evaluation.agreement import count_agreement, weighted_kappa
from ..evaluation.matching import match
from ..files import IMAGE_SUFFIXES, TABLE_SUFFIXES, write_csv, write_json
from ..pages.results import SubjectResult, has_results, read_results

PROGRAM = "program"
NO_REGION = "not known"
PLACE = ("ras_r_mm", "ras_a_mm", "ras_s_mm")


@dataclass(frozen=True)
class Rater:
    """
    What one rater found.

    Args:
        name: of the rater.
        places: (N, 3) RAS mm of each subject that was rated.
        failures: why other subjects are not rated.
        decisions: True or False by subject and number of the candidate, of a table of the page for review; else empty.
    """

    name: str
    places: Mapping[str, np.ndarray]
    failures: Mapping[str, str]
    decisions: Mapping[tuple[str, str], bool]


def compare_raters(
    results_dir: str | Path | None,
    raters: Mapping[str, str] | None,
    output_dir: str | Path,
    with_program: bool = True,
    distance_mm: float = 5.0,
    subjects: Sequence[str] | None = None,
    convention: Mapping | None = None,
    join_mm: float = 3.0,
) -> dict:
    """
    Compare each two raters on the subjects that all of them rated; write ``agreement.json``, ``agreement.csv`` and
    ``disagreements.csv``, and print a table.

    Args:
        results_dir: ``output_dir`` of an inference, which has the grids of the scans, the program's findings and, where
            regions were asked for, their regions.
        raters: path by name: a table of several subjects, as the page for review writes it; a folder of tables or
            label maps named ``<id>`` or ``<id>_label``; or another folder of results.
        output_dir: folder of the files.
        with_program: whether the program's findings in ``results_dir`` are those of one more rater.
        distance_mm: largest distance of two places that are the same lesion.
        subjects: only these ids.
        convention, join_mm: see :func:`~..data.labels.read_points`.

    Returns:
        the content of ``agreement.json``.

    Raises:
        OptionError: there are fewer than two raters, or two have one name.
        SubjectError: there are no results, or no subject that all raters rated.
        LabelError: a rater's files are not there.
        CohortError: at the end, if a rater has a subject that could not be read; all others are compared.
    """
    if results_dir is None:
        raise SubjectError(
            "results_dir is not given. Give the output_dir of an inference of the scans that were rated."
        )
    raters = raters or {}
    if not isinstance(raters, Mapping) or len(raters) + bool(with_program) < 2 or (with_program and PROGRAM in raters):
        raise OptionError(
            f"raters is {raters!r} and with_program {with_program!r}; expected a path by name for two raters in all, "
            "as \"{'AB': 'review_AB.csv', 'CD': 'review_CD.csv'}\", none of them named program beside it."
        )
    results = {result.subject: result for result in read_results(results_dir, subjects)}
    how = {"convention": LabelConvention(**(convention or {})), "join_mm": join_mm}
    all_raters = [_read_rater(str(name), Path(path).expanduser(), results, how) for name, path in raters.items()]
    if with_program:
        all_raters.append(Rater(PROGRAM, {name: _found(result) for name, result in results.items()}, {}, {}))
    common = [name for name in results if all(name in rater.places for rater in all_raters)]
    if not common:
        numbers = ", ".join(f"{rater.name} {len(rater.places)}" for rater in all_raters)
        first = next((why for rater in all_raters for why in rater.failures.values()), "")
        raise SubjectError(f"no subject of {results_dir} was rated by all ({numbers}). {first}".strip())
    pairs = [_pair(one, other, common, results, distance_mm) for one, other in itertools.combinations(all_raters, 2)]
    left_out = {
        name: {r.name: r.failures.get(name, "not rated") for r in all_raters if name not in r.places}
        for name in results
        if name not in common
    }
    told = {
        "subjects": len(common),
        "distance_mm": distance_mm,
        "raters": {r.name: int(sum(len(r.places[name]) for name in common)) for r in all_raters},
        "pairs": [{key: value for key, value in pair.items() if key != "disagreements"} for pair in pairs],
        "left_out": left_out,
    }
    folder = Path(output_dir)
    write_json(folder / "agreement.json", told)
    table = pd.DataFrame([row for pair in pairs for row in _rows(pair)])
    write_csv(folder / "agreement.csv", table)
    columns = ["subject", *PLACE, "found_by", "not_by", "region"]
    write_csv(
        folder / "disagreements.csv", pd.DataFrame([d for p in pairs for d in p["disagreements"]], columns=columns)
    )
    print(f"\nAgreement on {len(common)} subjects (the same lesion within {distance_mm:g} mm)")
    print(table.drop(columns="region")[table["region"] == "all"].round(3).to_string(index=False, na_rep="-"))
    if left_out:
        print(f"Left out, as not all rated them: {', '.join(left_out)}")
    broken = {f"{r.name}, {name}": why for r in all_raters for name, why in r.failures.items()}
    if broken:
        reasons = "\n".join(f"  {name}: {why}" for name, why in broken.items())
        raise CohortError(
            f"{len(broken)} ratings could not be read and were left out; the others are compared:\n{reasons}"
        )
    return told


def _read_rater(name: str, path: Path, results: Mapping[str, SubjectResult], how: Mapping) -> Rater:
    if path.is_dir() and has_results(path):
        own = {result.subject: _found(result) for result in read_results(path)}
        return Rater(name, {subject: own[subject] for subject in results if subject in own}, {}, {})
    if path.is_dir():
        files = {subject: _label_in(path, subject) for subject in results}
        files = {subject: file for subject, file in files.items() if file is not None}
        if not files:
            raise LabelError(
                f"{path}: has no table or label map named after a subject, such as {next(iter(results))}.csv. Expected "
                "the labels of one rater."
            )
        decisions = {}
    else:
        named = subjects_of_table(path)
        files = {subject: path for subject in results if subject in named}
        decisions = read_decisions(path)
    places, failures = {}, {}
    for subject, file in files.items():
        grid = results[subject]
        try:
            places[subject] = read_points(file, grid.shape, grid.affine, **how, subject=subject).ras_mm
        except InputError as error:
            failures[subject] = str(error)
    decisions = {key: decision for key, decision in decisions.items() if key[0] in places}
    return Rater(name, places, failures, decisions)


def _label_in(folder: Path, subject: str) -> Path | None:
    """The label of a subject in a folder of one rater."""
    found = [
        folder / f"{subject}{end}{suffix}"
        for end in ("", "_label")
        for suffix in (*TABLE_SUFFIXES, *IMAGE_SUFFIXES)
        if (folder / f"{subject}{end}{suffix}").is_file()
    ]
    if len(found) > 1:
        raise LabelError(f"{folder}: has {', '.join(path.name for path in found)}; expected one label of {subject}.")
    return found[0] if found else None


def _found(result: SubjectResult) -> np.ndarray:
    return np.array([bleed["ras_mm"] for bleed in result.content["microbleeds"]], dtype=float).reshape(-1, 3)


def _regions(result: SubjectResult, places: np.ndarray, distance_mm: float) -> list[str]:
    """The region of each place: that of the program's finding there."""
    own, bleeds = _found(result), result.content["microbleeds"]
    nearest = match(places, np.ones(len(places)), own, distance_mm).lesion_of_detection
    return [(bleeds[n].get("region") or NO_REGION) if n >= 0 else NO_REGION for n in nearest]


def _pair(
    one: Rater, other: Rater, common: Sequence[str], results: Mapping[str, SubjectResult], distance_mm: float
) -> dict:
    """Compare two raters."""
    lesions, disagreements = [], []
    for subject in common:
        a, b = one.places[subject], other.places[subject]
        matched = match(b, np.ones(len(b)), a, distance_mm)
        regions_a, regions_b = (_regions(results[subject], places, distance_mm) for places in (a, b))
        for number, place in enumerate(a):
            both = not matched.is_missed[number]
            lesions.append((subject, regions_a[number], "both" if both else "first"))
            if not both:
                disagreements.append(_row(subject, place, one.name, other.name, regions_a[number]))
        for number in np.flatnonzero(matched.lesion_of_detection < 0):
            lesions.append((subject, regions_b[number], "second"))
            disagreements.append(_row(subject, b[number], other.name, one.name, regions_b[number]))
    table = pd.DataFrame(lesions, columns=["subject", "region", "by"])
    shared = [key for key in one.decisions if key in other.decisions and key[0] in common]
    verdicts = np.zeros((2, 2), dtype=int)
    for key in shared:
        verdicts[int(one.decisions[key]), int(other.decisions[key])] += 1
    regions = sorted(set(table["region"]) - {NO_REGION}) + ([NO_REGION] if NO_REGION in set(table["region"]) else [])
    return {
        "first": one.name,
        "second": other.name,
        **_agreement(table, common),
        "candidates": {
            "both_decided": len(shared),
            "confusion": verdicts.tolist(),
            "kappa": weighted_kappa(verdicts) if shared else None,
        },
        "by_region": {region: _agreement(table[table["region"] == region], common) for region in regions},
        "disagreements": disagreements,
    }


def _row(subject: str, place: np.ndarray, by: str, not_by: str, region: str) -> dict:
    places = dict(zip(PLACE, np.round(place, 2).tolist(), strict=True))
    return {"subject": subject, **places, "found_by": by, "not_by": not_by, "region": region}


def _agreement(table: pd.DataFrame, common: Sequence[str]) -> dict:
    """The figures of some lesions of two raters."""
    number = {by: int((table["by"] == by).sum()) for by in ("both", "first", "second")}
    counts = [
        table[table["by"].isin(["both", by])].groupby("subject").size().reindex(common, fill_value=0).to_numpy()
        for by in ("first", "second")
    ]
    presence = np.zeros((2, 2), dtype=int)
    np.add.at(presence, tuple((count > 0).astype(int) for count in counts), 1)
    marked = 2 * number["both"] + number["first"] + number["second"]
    return {
        "lesions_of_both": number["both"],
        "lesions_of_first_alone": number["first"],
        "lesions_of_second_alone": number["second"],
        "positive_agreement": 2 * number["both"] / marked if marked else None,
        "presence": {"confusion": presence.tolist(), "kappa": weighted_kappa(presence)},
        "counts": count_agreement(*counts),
    }


def _rows(pair: Mapping) -> list[dict]:
    """Rows of the table: all lesions, and each region."""
    rows = []
    for region, part in {"all": pair, **pair["by_region"]}.items():
        limits = part["counts"]["bland_altman"]
        rows.append(
            {
                "first": pair["first"],
                "second": pair["second"],
                "region": region,
                "both": part["lesions_of_both"],
                "first_alone": part["lesions_of_first_alone"],
                "second_alone": part["lesions_of_second_alone"],
                "positive_agreement": part["positive_agreement"],
                "kappa_presence": part["presence"]["kappa"],
                "kappa_candidates": pair["candidates"]["kappa"] if region == "all" else None,
                "icc_counts": part["counts"]["icc"],
                "bias": limits["bias"],
                "lower": limits["lower"],
                "upper": limits["upper"],
            }
        )
    return rows
