"""Score the regions of true microbleeds on simulated scans of all protocols, by the template and by a parcellation.

``python benchmarks/regions.py DIR`` simulates the cohorts of ``COHORTS`` in DIR (reused), puts the true microbleeds in
the place of findings, brings the template to each scan as ``--regions True`` does, and prints a table by kind of scan,
the worst first. ``--parcellation True`` gives the true regions as a parcellation in place of the template.
``--folders COHORT,COHORT`` takes cohorts that are there; ``--places FILE`` writes a CSV of all places; ``--seed N``
draws other scans. Linux (memory is read from /proc).

A simulated head is the template under a pose and a warp that are known, so that the true region of a place is that of
the template at the place where it came from.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import pandas as pd
from monai.bundle import ConfigParser
from scipy.stats import binomtest

from cmb_bundle.scripts.data import find_subjects
from cmb_bundle.scripts.phantom import LR, SMALL, T2STAR, PhantomSpec, make_cohort
from cmb_bundle.scripts.phantom.acquire import image_grid
from cmb_bundle.scripts.phantom.anatomy import Pose
from cmb_bundle.scripts.regions import Regionsd, read_parcellation, template_regions
from cmb_bundle.scripts.regions.mars import REGIONS

CONFIGS = Path(__file__).resolve().parents[1] / "cmb_bundle" / "configs"
MANY = 12
"""Microbleeds in each scan."""
WHOLE = LR.changed(microbleeds=MANY)
COHORTS: dict[str, dict] = {
    "SWI with phase": {"preset": WHOLE, "kinds": "swi_phase"},
    "SWI alone": {"preset": WHOLE, "kinds": "swi_only"},
    "magnitude with phase": {"preset": WHOLE, "kinds": "magnitude_phase"},
    "T2* of thick slices": {"preset": T2STAR.changed(microbleeds=MANY), "kinds": "t2star"},
    "1.5 to 7 T, oblique, other voxels": {"preset": WHOLE, "vary": True, "vary_geometry": True},
    "slices of 4 mm": {"preset": WHOLE.changed(spacing=(0.8, 0.8, 4.0), shape=(320, 280, 36)), "vary": True},
    "without a skull": {"preset": WHOLE.changed(skull_stripped=True), "vary": True},
    "slab of 48 mm": {"preset": SMALL.changed(microbleeds=MANY)},
}
PARCELLATION_MM = 1.0
SCANS = 5
SEED = 7700


def peak_gb() -> float:
    """Largest resident memory of this process since ``forget_peak``, in GB."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1e6


def forget_peak() -> float:
    """Forget the largest memory so far; gives that of now, in GB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_gb()


def true_template_mm(truth: dict, affine: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Template mm (n, 3) of voxels (n, 3) of a simulated scan, by the pose that it was made with."""
    spec = truth["spec"]
    grid = image_grid(PhantomSpec(spacing=spec["spacing"], shape=spec["shape"], centre_mm=spec["centre_mm"]))
    scanner = np.array(grid.origin) + voxels * np.linalg.norm(affine[:3, :3], axis=0)
    pose = Pose(np.random.default_rng([spec["seed"], 0]))
    return pose.to_template(scanner.T.astype(np.float32)).T.astype(float)


def write_parcellation(path: Path, image: Path, truth: dict) -> None:
    """The true regions at ``PARCELLATION_MM`` as a parcellation with a table, as a user could give it."""
    affine, shape = nib.load(image).affine, np.array(nib.load(image).shape[:3])
    steps = PARCELLATION_MM / np.linalg.norm(affine[:3, :3], axis=0)
    axes = [np.arange(-0.5, n, step) for n, step in zip(shape, steps, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    regions = template_regions()
    places = true_template_mm(truth, affine, voxels.reshape(-1, 3))
    index = np.rint(places - regions.affine[:3, 3]).astype(int)
    inside = ((index >= 0) & (index < regions.region.shape)).all(1)
    index = tuple(np.clip(index, 0, np.array(regions.region.shape) - 1).T)
    label = np.where(inside & (regions.region[index] > 0), 2 * regions.region[index] + (places[:, 0] > 0), 0)
    labels = label.reshape(voxels.shape[:3]).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, affine @ nib.affines.from_matvec(np.diag(steps), [-0.5] * 3)), path)
    rows = [
        f"{2 * number + right}\t{side} {region}\t{region}\t{side}"
        for number, region in enumerate(REGIONS, 1)
        for right, side in enumerate(("left", "right"))
    ]
    table = path.with_name(path.name.replace(".nii.gz", ".tsv"))
    table.write_text("\n".join(["index\tname\tregion\tside", *rows]) + "\n", encoding="utf-8")


def score(kind: str, scan: str, found: list[dict], truth: dict, places: np.ndarray) -> list[dict]:
    """A row for each microbleed: what it lies in, and what was said."""
    rows = []
    for one, microbleed, mm in zip(found, truth["microbleeds"], places, strict=True):
        true = template_regions().locate(mm)
        sides = (true.side, one["side"])
        rows.append(
            {
                "kind": kind, "scan": scan, "x": mm[0], "y": mm[1], "z": mm[2], "placed": microbleed["region"],
                "true": true.region, "found": one["region"], "true_side": true.side, "side": one["side"],
                "border_mm": true.border_mm, "neighbours": "; ".join(one["neighbours"]),
                "category": true.category == one["category"],
                "region": true.region == one["region"],
                "sided": "middle" in sides or sides[0] == sides[1],
                "named": true.region in (one["region"], *one["neighbours"]),
                "as_placed": microbleed["region"] == one["category"],
            }
        )  # fmt: skip
    return rows


def measure(kind: str, cohort: Path, preprocessing, parcellation: bool) -> tuple[list[dict], list[dict]]:
    """Rows of the places and of the scans of a cohort."""
    places, scans = [], []
    for subject in find_subjects(cohort):
        name = subject["subject"]
        truth = json.loads((cohort / "Truth" / f"{name}.json").read_text())
        if not truth["microbleeds"] or truth["spec"].get("chi_map"):
            continue
        image = Path(next(subject[key] for key in ("image", "magnitude", "t2star") if subject.get(key)))
        with tempfile.TemporaryDirectory() as aside:
            path = Path(aside, f"{name}_dseg.nii.gz")
            if parcellation:
                write_parcellation(path, image, truth)
            d = {} if parcellation else preprocessing(dict(subject))
            before, began = forget_peak(), (time.monotonic(), time.process_time())
            if parcellation:
                region_map = read_parcellation(path, subject=name)
                found = [one | region_map.locate(one["ras_mm"]).entries() for one in truth["microbleeds"]]
                result = {"microbleeds": found, "regions": {}}
            else:
                d["result"] = {"microbleeds": [dict(one) for one in truth["microbleeds"]]}
                result = Regionsd(True)(d)["result"]
        scans.append(
            {
                "kind": kind, "scan": name, "seconds": time.monotonic() - began[0],
                "cpu_seconds": time.process_time() - began[1], "peak_gb": peak_gb(), "more_gb": peak_gb() - before,
                "similarity": result["regions"].get("similarity"),
                "doubts": "; ".join(result["regions"].get("doubts", ())),
            }
        )  # fmt: skip
        voxels = np.array([one["voxel"] for one in truth["microbleeds"]])
        mm = true_template_mm(truth, nib.load(image).affine, voxels)
        places += score(kind, name, result["microbleeds"], truth, mm)
        done = pd.DataFrame(places[-len(voxels) :])
        print(f"{kind} {name}: {done[['category', 'region', 'sided']].mean().round(2).tolist()} {scans[-1]}",
              flush=True)  # fmt: skip
    return places, scans


def share(right: pd.Series) -> str:
    """A share in percent with its 95 % interval (Wilson), as if the places of a scan were independent."""
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return f"{100 * right.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def table(places: pd.DataFrame, scans: pd.DataFrame) -> str:
    """By kind, the worst first, and of all."""
    places = places.assign(exact=places["region"] & places["sided"])
    kinds = sorted(places["kind"].unique(), key=lambda kind: places.loc[places["kind"] == kind, "category"].mean())
    columns = ["", "scans", "places", "group, %", "region and side, %", "or a neighbour, %"]
    columns += ["processor seconds", "seconds", "GB more"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for kind in [*kinds, "all"]:
        p = places if kind == "all" else places[places["kind"] == kind]
        s = scans if kind == "all" else scans[scans["kind"] == kind]
        lines.append(
            f"| {kind} | {len(s)} | {len(p)} | {share(p['category'])} | {share(p['exact'])} | {share(p['named'])} | "
            f"{s['cpu_seconds'].median():.1f} ({s['cpu_seconds'].max():.1f}) | {s['seconds'].median():.1f} | "
            f"{s['more_gb'].max():.2f} |"
        )
    return "\n".join(lines)


def main(
    folder: str,
    scans: int = SCANS,
    seed: int = SEED,
    folders: str | tuple = (),
    places: str = "",
    parcellation: bool = False,
) -> None:
    """Print the table."""
    parser = ConfigParser(ConfigParser.load_config_file(str(CONFIGS / "inference.json")))
    parser.update({"bundle_root": str(CONFIGS.parent), "phase_sign": 1, "accept_any": True})
    parser = ConfigParser(json.loads(json.dumps(parser.get()).replace('"scripts.', '"cmb_bundle.scripts.')))
    preprocessing = parser.get_parsed_content("preprocessing")
    given = folders.split(",") if isinstance(folders, str) and folders else list(folders)
    cohorts = {Path(one).name: Path(one) for one in given}
    if not cohorts:
        for number, (kind, how) in enumerate(COHORTS.items()):
            name = "".join(c if c.isalnum() else "_" for c in kind)
            made = make_cohort(Path(folder) / f"{name}_{seed}", scans, seed=seed + number, progress=False, **how)
            cohorts[kind] = Path(made)
    rows, about = [], []
    for kind, cohort in cohorts.items():
        some, more = measure(kind, cohort, preprocessing, parcellation)
        rows, about = rows + some, about + more
    rows, about = pd.DataFrame(rows), pd.DataFrame(about)
    if places:
        rows.to_csv(places, index=False, float_format="%.2f")
    print(table(rows, about))
    print(f"Largest memory of the process {about['peak_gb'].max():.2f} GB; {int((about['doubts'] != '').sum())} scans "
          f"with a doubt; as the simulator placed them {share(rows['as_placed'])}")  # fmt: skip
    wrong = rows[~rows["category"] | ~rows["region"]]
    print(wrong.groupby(["true", "found"]).size().sort_values(ascending=False).head(12).to_string())


if __name__ == "__main__":
    fire.Fire(main)
