"""Make the cohorts behind the shipped weights: training and validation, thresholds, test, and protocol changes.

``python benchmarks/cohorts.py DIR`` makes all of them (35 GB), or those named after DIR. Their seeds are disjoint. The
seeds of the test cohorts were chosen before anything was simulated, so that a third of the 40 subjects have no
microbleeds. No threshold or design was chosen by detections in ``test_hr``, ``test_lr`` or ``robustness``;
docs/how_it_was_made/experiments.md says what was seen there first. ``unseen_hr`` and ``unseen_lr`` were simulated and
scored after everything was fixed.

``kinds_training``, ``kinds_further``, ``kinds_more``, ``kinds_last``, ``kinds_choice``, ``kinds_test`` and
``kinds_unseen`` hold cohorts of the kinds of scan that scanners write, see docs/reference/phantom.md; the last three
also scans made from the susceptibility maps of a folder, ``--maps FOLDER``. ``kinds_maps`` has such scans alone. Give
``kinds_choice`` other maps than the rest. Stage 2 learned from ``kinds_last`` last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fire

from cmb_bundle.scripts.phantom import HR, LR, T2STAR, Content, make_cohort

PROTOCOL = LR.changed(shape=(240, 280, 36), centre_mm=(0.0, 0.0, 10.0), microbleeds=10)
"""The slab in which one parameter is changed at a time: 3 T, 20 ms, SNR 25, 0.8 x 0.8 x 2 mm."""

CHANGES: dict[str, dict] = {
    "as it is": {},
    "1.5 T": {"field_tesla": 1.5},
    "7 T": {"field_tesla": 7.0},
    "TE 15 ms": {"te_ms": 15.0, "tr_ms": 22.0},
    "TE 30 ms": {"te_ms": 30.0, "tr_ms": 37.0},
    "TE 45 ms": {"te_ms": 45.0, "tr_ms": 52.0},
    "SNR 8": {"snr": 8.0},
    "SNR 15": {"snr": 15.0},
    "SNR 60": {"snr": 60.0},
    "0.4 mm in plane": {"spacing": (0.4, 0.4, 2.0), "shape": (480, 560, 36)},
    "1.0 mm in plane": {"spacing": (1.0, 1.0, 2.0), "shape": (192, 224, 36)},
    "1 mm slices": {"spacing": (0.8, 0.8, 1.0), "shape": (240, 280, 72)},
    "3 mm slices": {"spacing": (0.8, 0.8, 3.0), "shape": (240, 280, 24)},
    "5 mm slices": {"spacing": (0.8, 0.8, 5.0), "shape": (240, 280, 14)},
    "weak phase filter": {"homodyne_cutoff": 0.08},
    "strong phase filter": {"homodyne_cutoff": 0.25},
    "atrophy": {"atrophy": 3.0},
    "skull stripped": {"skull_stripped": True},
    "motion": {"ghosting": 0.2},
    "phase 0 to 4095": {"phase_scale": "unsigned4095"},
    "other polarity": {"phase_polarity": -1},
    "no phase": {"with_phase": False},
}
ROBUSTNESS_SUBJECTS = 4
IN_3D = "swi_phase,swi_only,magnitude_phase"
VARIED = {"subjects": 6, "spec": LR, "vary": True, "vary_geometry": True}
KINDS_TRAINING: dict[str, dict] = {
    **{f"swi_{n}": {"subjects": 12, "spec": LR, "seed": 100 + n, "kinds": IN_3D} for n in (1, 2, 3, 7, 11, 13, 15)},
    **{
        f"t2star_{n}": {"subjects": 12, "spec": T2STAR, "seed": 200 + n, "kinds": "t2star"}
        for n in (1, 2, 3, 11, 12, 13)
    },
    **{f"plain_{n}": {**VARIED, "seed": 300 + n} for n in (1, 2, 11, 12)},
    "plain_hr_11": {"subjects": 6, "spec": HR, "seed": 411, "vary": True},
}
"""Cohorts of all kinds of scan that the weights were trained on, after those of ``training``: stage 2 on all of them,
stage 1 on those below 11, without ``swi_3``."""

LATER = {
    **{f"swi_{n}": {"subjects": 12, "spec": LR, "seed": 100 + n, "kinds": IN_3D} for n in (12, 14, 16)},
    **{f"t2star_{n}": {"subjects": 12, "spec": T2STAR, "seed": 200 + n, "kinds": "t2star"} for n in (14, 15)},
    "plain_13": {**VARIED, "seed": 313},
    "plain_hr_12": {"subjects": 6, "spec": HR, "seed": 412, "vary": True},
}
"""Those that only the second training of stage 2 saw."""

KINDS_FURTHER: dict[str, dict] = {
    **{f"t2star_{n}": {"subjects": 12, "spec": T2STAR, "seed": 200 + n, "kinds": "t2star"} for n in range(31, 42)},
    **{f"swi_{n}": {"subjects": 12, "spec": LR, "seed": 100 + n, "kinds": IN_3D} for n in range(31, 38)},
    **{f"plain_{n}": {**VARIED, "seed": 300 + n} for n in (31, 32)},
    "plain_hr_31": {"subjects": 6, "spec": HR, "seed": 431, "vary": True},
}
"""Those that stage 2 was trained on with once more; their vessels go on."""

KINDS_MORE: dict[str, dict] = {
    **{f"t2star_{n}": {"subjects": 12, "spec": T2STAR, "seed": 200 + n, "kinds": "t2star"} for n in range(81, 97)},
    **{f"swi_{n}": {"subjects": 12, "spec": LR, "seed": 500 + n, "kinds": IN_3D} for n in range(1, 6)},
    **{f"swi_only_{n}": {"subjects": 12, "spec": LR, "seed": 520 + n, "kinds": "swi_only"} for n in range(1, 7)},
}
"""Those that stage 2 was trained on with after that."""

ANYWHERE = Content(anywhere=0.5)
KINDS_LAST: dict[str, dict] = {
    f"{kind}_{n}": {"subjects": 12, "spec": spec.changed(content=ANYWHERE), "seed": seed + n, "kinds": kind}
    for kind, spec, seed, count in (
        ("swi_phase", LR, 600, 10),
        ("magnitude_phase", LR, 640, 5),
        ("t2star", T2STAR, 660, 8),
        ("swi_only", LR, 680, 2),
    )
    for n in range(1, count + 1)
}
"""Those that stage 2 was trained on with last."""

KINDS_CHOICE = {
    "t2star": {"subjects": 12, "spec": T2STAR, "seed": 251, "kinds": "t2star"},
    "swi": {"subjects": 12, "spec": LR, "seed": 151, "kinds": IN_3D},
    "swi_only": {"subjects": 10, "spec": LR, "seed": 152, "kinds": "swi_only"},
    "magnitude_phase": {"subjects": 8, "spec": LR, "seed": 153, "kinds": "magnitude_phase"},
    "plain": {**VARIED, "seed": 351},
    "plain_hr": {"subjects": 6, "spec": HR, "seed": 451, "vary": True},
    "map_swi_phase": {"subjects": 8, "spec": LR, "seed": 7801, "kinds": "map_swi_phase"},
    "map_t2star": {"subjects": 8, "spec": LR, "seed": 7802, "kinds": "map_t2star"},
    "t2star_2": {"subjects": 36, "spec": T2STAR, "seed": 255, "kinds": "t2star"},
    "swi_only_2": {"subjects": 16, "spec": LR, "seed": 156, "kinds": "swi_only"},
    "magnitude_phase_2": {"subjects": 16, "spec": LR, "seed": 157, "kinds": "magnitude_phase"},
    "swi_phase_2": {"subjects": 16, "spec": LR, "seed": 158, "kinds": "swi_phase"},
}
"""Cohorts that decided on the surroundings of stage 2, and that decision and thresholds were fitted to."""

KINDS_TEST: dict[str, dict] = {
    "plain_hr": {"subjects": 12, "spec": HR.changed(positive_share=2 / 3), "seed": 905},
    "plain_lr": {"subjects": 12, "spec": LR.changed(positive_share=2 / 3), "seed": 904},
    "swi_phase": {"subjects": 12, "spec": LR, "seed": 911, "kinds": "swi_phase"},
    "swi_only": {"subjects": 12, "spec": LR, "seed": 912, "kinds": "swi_only"},
    "magnitude_phase": {"subjects": 12, "spec": LR, "seed": 913, "kinds": "magnitude_phase"},
    "t2star": {"subjects": 12, "spec": T2STAR, "seed": 921, "kinds": "t2star"},
    "map_swi_phase": {"subjects": 12, "spec": LR, "seed": 902, "kinds": "map_swi_phase"},
    "map_t2star": {"subjects": 12, "spec": LR, "seed": 903, "kinds": "map_t2star"},
}
"""Cohorts of one kind of scan each, which decided nothing. Those of maps need ``--maps FOLDER``."""
KINDS_UNSEEN = {
    name: {**KINDS_TEST[name], "seed": KINDS_TEST[name]["seed"] + 1000} for name in ("map_swi_phase", "t2star")
}
KINDS_UNSEEN["t2star_many"] = {"subjects": 120, "spec": T2STAR, "seed": 271, "kinds": "t2star"}
"""Kinds again with other seeds, simulated when the convolutions were settled; those of ``t2star_many`` before the
thresholds were, which they had no part in."""

ALONE = LR.changed(mimics=False)
KINDS_MAPS: dict[str, dict] = {
    "map_plain": {"subjects": 24, "spec": LR.changed(positive_share=5 / 6), "seed": 8101},
    "map_plain_hr": {"subjects": 24, "spec": HR.changed(positive_share=5 / 6), "seed": 8102},
    "map_plain_t2star": {"subjects": 24, "spec": T2STAR.changed(positive_share=5 / 6), "seed": 8103},
    "map_swi_phase": {"subjects": 24, "spec": ALONE, "seed": 3902, "kinds": "map_swi_phase"},
    "map_swi_only": {"subjects": 24, "spec": ALONE, "seed": 3904, "kinds": "map_swi_only"},
    "map_magnitude_phase": {"subjects": 24, "spec": ALONE, "seed": 3905, "kinds": "map_magnitude_phase"},
    "map_t2star": {"subjects": 24, "spec": ALONE, "seed": 3903, "kinds": "map_t2star"},
    **{
        f"{kind}_anywhere": {"subjects": 10, "spec": ALONE.changed(content=ANYWHERE), "seed": 3910 + n, "kinds": kind}
        for n, kind in enumerate(("map_swi_phase", "map_swi_only", "map_magnitude_phase", "map_t2star"))
    },
}
"""Scans of maps by three plain protocols, with common mimics. Then all kinds with microbleeds alone put in: what else
looks like one is the map's own; in the cohorts "anywhere" half of them need not keep away from veins."""

COHORTS = ["training", "points_hr", "points_lr", "dense_hr", "dense_lr", "test_hr", "test_lr"]
COHORTS += ["unseen_hr", "unseen_lr", "robustness", "kinds_training", "kinds_further", "kinds_more", "kinds_last"]
COHORTS += ["kinds_choice", "kinds_test", "kinds_unseen", "kinds_maps"]


def folder_of(change: str) -> str:
    """The name of the folder of a protocol change."""
    return change.replace(" ", "_").replace(".", "-")


def make_kinds(folder: Path, cohorts: Mapping[str, Mapping], maps: str | None, processes: int | None) -> None:
    """Make cohorts of kinds of scan; without maps, those that need some are left out."""
    for name, how in cohorts.items():
        needs_maps = name.startswith("map_")
        if needs_maps and maps is None:
            print(f"{name} is left out: it needs susceptibility maps, --maps FOLDER")
            continue
        values = {key: value for key, value in how.items() if key not in ("subjects", "spec")}
        make_cohort(
            folder / name,
            how["subjects"],
            how["spec"],
            processes=processes,
            maps=maps if needs_maps else None,
            **values,
        )


def make(folder: str, *names: str, maps: str | None = None, processes: int | None = None) -> None:
    """Make the named cohorts, or all of them if no names are given."""
    folder = Path(folder)
    wanted = names or COHORTS
    if "kinds_training" in wanted:
        make_kinds(folder / "kinds_training", {**KINDS_TRAINING, **LATER}, maps, processes)
    if "kinds_further" in wanted:
        make_kinds(folder / "kinds_further", KINDS_FURTHER, maps, processes)
    if "kinds_more" in wanted:
        make_kinds(folder / "kinds_more", KINDS_MORE, maps, processes)
    if "kinds_last" in wanted:
        make_kinds(folder / "kinds_last", KINDS_LAST, maps, processes)
    if "kinds_choice" in wanted:
        make_kinds(folder / "kinds_choice", KINDS_CHOICE, maps, processes)
    if "kinds_test" in wanted:
        make_kinds(folder / "kinds_test", KINDS_TEST, maps, processes)
    if "kinds_unseen" in wanted:
        make_kinds(folder / "kinds_unseen", KINDS_UNSEEN, maps, processes)
    if "kinds_maps" in wanted:
        make_kinds(folder / "kinds_maps", KINDS_MAPS, maps, processes)
    if "training" in wanted:
        make_cohort(folder / "training", 170, LR, seed=1000, vary=True, vary_geometry=True)
    if "points_hr" in wanted:
        make_cohort(folder / "points_hr", 20, HR.changed(positive_share=2 / 3), seed=2000)
    if "points_lr" in wanted:
        make_cohort(folder / "points_lr", 20, LR.changed(positive_share=2 / 3), seed=2500)
    if "dense_hr" in wanted:
        make_cohort(folder / "dense_hr", 8, HR.changed(microbleeds=60), seed=2600)
    if "dense_lr" in wanted:
        make_cohort(folder / "dense_lr", 8, LR.changed(microbleeds=60), seed=2700)
    if "test_hr" in wanted:
        make_cohort(folder / "test_hr", 20, HR.changed(positive_share=2 / 3), seed=3009)
    if "test_lr" in wanted:
        make_cohort(folder / "test_lr", 20, LR.changed(positive_share=2 / 3), seed=4000)
    if "unseen_hr" in wanted:
        make_cohort(folder / "unseen_hr", 40, HR.changed(positive_share=2 / 3), seed=6000)
    if "unseen_lr" in wanted:
        make_cohort(folder / "unseen_lr", 40, LR.changed(positive_share=2 / 3), seed=6500)
    if "robustness" in wanted:
        for change, values in CHANGES.items():
            spec = PROTOCOL.changed(**values)
            make_cohort(folder / "robustness" / folder_of(change), ROBUSTNESS_SUBJECTS, spec, seed=5000)


if __name__ == "__main__":
    fire.Fire(make)
