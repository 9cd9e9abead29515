"""The program as a BIDS app: ``bids_dir output_dir participant`` and ``... group``, as containers start it."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.bundle
import pandas as pd

from ..data.bids import only_labelled
from ..data.layouts import find_subjects
from ..data.results import results_of
from ..dicom.writers import bundle_version
from ..errors import OptionError, SubjectError, show_cause_last
from ..files import check_writable, write_csv
from ..regions.table import RegionsTable
from ..report.cohort import write_cohort
from .bids_output import BidsOutput
from .cohort_table import NAME, subjects_table

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """
    Read the arguments of a BIDS app; what it does not know are options of inference, in pairs.

    Raises:
        OptionError: an option is without its value.

    Example:
        >>> given, options = parse(["/data", "/out", "participant", "--participant_label", "01", "02", "--echo", "0"])
        >>> given.participant_label, options
        (['01', '02'], {'echo': 0})
    """
    parser = argparse.ArgumentParser(
        prog="bids_app", allow_abbrev=False, description="Find cerebral microbleeds in a BIDS data set.",
        epilog="Any option of inference may follow, as --operating_point sensitive.",
    )  # fmt: skip
    parser.add_argument("bids_dir", type=Path, help="the data set; nothing in it is changed")
    parser.add_argument("output_dir", type=Path, help="folder of results")
    parser.add_argument("analysis_level", choices=["participant", "group"])
    parser.add_argument("--participant_label", nargs="+", metavar="LABEL", help="with or without sub-")
    parser.add_argument("--session_label", nargs="+", metavar="LABEL", help="with or without ses-")
    parser.add_argument("--n_cpus", type=int, default=1, help="processes that work at the same time")
    parser.add_argument("--skip_bids_validator", action="store_true", help="accepted; no data set is validated")
    parser.add_argument("-v", "--version", action="version", version=bundle_version())
    given, others = parser.parse_known_args(words)
    options = {}
    for name, value in zip(others[::2], [*others[1::2], None], strict=False):
        if not name.startswith("--") or value is None:
            raise OptionError(
                f"{name} is no option with a value; expected --name value, as --operating_point sensitive."
            )
        options[name.removeprefix("--")] = _value(value)
    return given, options


def _value(text: str) -> Any:
    """A value as the bundle's command line takes it: ``0.5``, ``True`` and ``"['01']"`` are no text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def participant_level(given: argparse.Namespace, options: Mapping[str, Any]) -> None:
    """
    Find the microbleeds of the participants.

    With ``participant_label``, failures go into ``failures_<labels>.csv`` and no ``subjects.csv`` is written, so that
    jobs which work on a participant each, in the same folder, leave alone what the others wrote.
    """
    files = [str(CONFIGS / "inference.json")]
    more = {"dataset_dir": str(given.bids_dir), "output_dir": str(given.output_dir), "cohort_files": False}
    for name in ("participant_label", "session_label"):
        if getattr(given, name):
            more[name] = getattr(given, name)
    if given.n_cpus > 1:
        files.append(str(CONFIGS / "cohort.json"))
        more["workers"] = given.n_cpus
    if given.participant_label:
        labels = "_".join(label.removeprefix("sub-") for label in given.participant_label)
        more[f"handlers#{_place_of_table()}#_disabled_"] = True
        more["evaluator#failures_file"] = str(given.output_dir / f"failures_{labels[:200]}.csv")
    monai.bundle.run(config_file=files, logging_file=False, **more, **options)


def _place_of_table() -> int:
    """Which of the handlers writes the table of the subjects of a run."""
    handlers = json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))["handlers"]
    return [handler["_target_"].rpartition(".")[2] for handler in handlers].index("CohortTable")


def group_level(given: argparse.Namespace) -> pd.DataFrame:
    """
    Write the tables and the page of the group from the results of the participants, in whichever layout they are.

    Returns:
        the content of ``cohort.csv``, with a row for each scan of the data set, or of the labels that are given.

    Raises:
        SubjectError: there is no scan in the data set, or no results are in the folder.
        OutputError: the folder cannot be written to.
    """
    subjects = only_labelled(find_subjects(given.bids_dir), given.participant_label, given.session_label)
    names, failures = [subject["subject"] for subject in subjects], {}
    for path in sorted(given.output_dir.glob("failures*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        failures |= dict(zip(table["subject"], table["reason"], strict=True))
    failures |= {subject["subject"]: subject["error"] for subject in subjects if "error" in subject}
    done = [name for name in names if results_of(given.output_dir, name).content.is_file()]
    if not done and not failures:
        raise SubjectError(
            f"{given.output_dir} has no results of the {len(names)} scans of {given.bids_dir}. Run the level "
            "participant first, into the same folder."
        )
    check_writable(given.output_dir)
    failed = {name: reason for name, reason in failures.items() if name not in done and name in names}
    if any(results_of(given.output_dir, name).root == given.output_dir for name in done):  # BIDS derivatives
        BidsOutput(given.output_dir, given.bids_dir).finish(failed)
    else:
        write_csv(given.output_dir / NAME, subjects_table(given.output_dir, done, failed))
    RegionsTable(given.output_dir, enabled=True).write()
    return write_cohort(given.output_dir, names, failed)


def main(words: Sequence[str] | None = None) -> None:
    """Run a level."""
    show_cause_last()
    given, options = parse(sys.argv[1:] if words is None else words)
    show_cause_last(given.output_dir)
    if given.analysis_level == "participant":
        participant_level(given, options)
        return
    if options:
        raise OptionError(f"{', '.join(options)}: the level group has no options of inference. Leave them out.")
    table = group_level(given)
    states = ", ".join(f"{number} {state}" for state, number in table["state"].value_counts().items())
    print(f"{len(table)} scans: {states}. See {given.output_dir / 'cohort.html'}")


if __name__ == "__main__":
    main()
