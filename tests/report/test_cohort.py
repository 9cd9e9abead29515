"""Tables and page of a cohort."""

import json
import re

import pandas as pd
import pytest

from cmb_bundle.scripts.report.cohort import COLUMNS, failure_kinds, write_cohort

BLEED = {
    "voxel": [1.0, 2.0, 3.0], "ras_mm": [4.0, 5.0, 6.0], "diameter_mm": 3.0, "detector_score": 0.5,
    "classifier_probability": 0.6, "probability": 0.7,
}  # fmt: skip


def write_subject(folder, subject, microbleeds=0, **scan):
    scan = {"size": [9, 8, 7], "voxel_mm": [0.5, 0.5, 2.0], "noise": 0.05, "intensity": 100.0, "head_ml": 1500} | scan
    result = {"contrast": "swi", "notices": "read", "warnings": scan.pop("warnings", "")}
    result |= {"microbleeds": [BLEED] * microbleeds, "candidates": [{**BLEED, "probability": 0.9}] * 2}
    run = {"version": "0.3.0", "weights": "abc"}
    manifest = {"made_from": {"run": run}, "scan": scan, "seconds": 2.5}
    (folder / subject).mkdir()
    (folder / subject / f"{subject}_cmb.json").write_text(json.dumps(result))
    (folder / subject / f"{subject}_cmb_run.json").write_text(json.dumps(manifest))


@pytest.fixture
def cohort(tmp_path):
    subjects = [f"s{number:02d}" for number in range(12)]
    for number, subject in enumerate(subjects):
        write_subject(
            tmp_path, subject, microbleeds={0: 3, 1: 1, 2: 20}.get(number, 0),
            **({"noise": 0.5, "warnings": "Thick."} if number == 4 else {}),
        )  # fmt: skip
    failures = {"x1": "SubjectError: x1: /data/x1.nii has 3 slices.", "x2": "SubjectError: x2: /d/x2.nii has 4 slices."}
    failures["</script><b>"] = "a <b>tag</b>"
    table = write_cohort(tmp_path, [*subjects, *failures, "later"], failures, worked=[*subjects, *failures])
    return tmp_path, table


def test_one_row_for_each_subject(cohort):
    folder, _ = cohort
    table = pd.read_csv(folder / "cohort.csv").set_index("subject")
    assert [table.index.name, *table.columns] == COLUMNS
    assert table["state"].value_counts().to_dict() == {"done": 12, "failed": 3, "not done": 1}
    assert table["microbleeds"].sum() == 24 and table["microbleeds"].isna().sum() == 4
    first = table.loc["s00"]
    assert (first["voxels"], first["voxel_s_mm"], first["highest_probability"]) == ("9 x 8 x 7", 2.0, 0.9)
    assert (first["seconds"], first["version"], first["weights"]) == (2.5, "0.3.0", "abc")
    assert table["outlier"].dropna().to_dict() == {"s04": "noise 0.5 (median 0.05)"}


def test_findings_of_all_subjects(cohort):
    folder, _ = cohort
    findings = pd.read_csv(folder / "findings.csv")
    assert findings["subject"].value_counts().to_dict() == {"s02": 20, "s00": 3, "s01": 1}
    assert list(findings["lesion"][:3]) == [1, 2, 3]
    assert findings.iloc[0][["voxel_i", "ras_s_mm", "probability"]].tolist() == [1.0, 6.0, 0.7]


def test_failures_by_reason(cohort):
    _, table = cohort
    assert failure_kinds(table)[0] == ("SubjectError: …: … has # slices.", 2, "x1")


def test_the_page_has_counts_and_rows_and_nothing_of_a_name_is_run(cohort):
    folder, _ = cohort
    page = (folder / "cohort.html").read_text()
    assert "Not for diagnosis." in page and "have not been validated on patients" in page
    counts = dict(re.findall(r'data-count="([^"]+)">(\d+)<', page))
    assert counts == {
        "subjects": "16", "with results": "12", "failed": "3", "incomplete": "0", "not done": "1", "with warnings": "1",
        "outliers": "1", "microbleeds": "24", "subjects with microbleeds": "3",
    }  # fmt: skip
    assert page.count("</script>") == 1 and "<b>tag" not in page
    rows = json.loads(re.search(r"rows = (\[\[.*?\]\]);", page).group(1))
    assert len(rows) == 16 and "</script><b>" in [row[0] for row in rows]
    assert " src=" not in page and "://" not in page


def test_a_cohort_in_which_all_failed(tmp_path):
    table = write_cohort(tmp_path, ["a"], {"a": "why"})
    assert list(table["state"]) == ["failed"]
    assert (tmp_path / "findings.csv").read_text().startswith("subject,lesion")
