"""BIDS data sets: which scans are found, which participants and sessions are taken, what their JSON files tell."""

import json

import pytest

from cmb_bundle.scripts.data.layouts import find_subjects
from cmb_bundle.scripts.data.sidecars import read_sidecar
from cmb_bundle.scripts.data.splits import Split, make_datalist
from cmb_bundle.scripts.errors import SubjectError

from .test_names import found, touch

SESSION = "sub-01/ses-02/"


def bids(root, *names):
    """Images of one session, named after it."""
    start = SESSION.replace("/", "_")
    return touch(root, *(f"{SESSION}{folder}/{start}{name}.nii.gz" for folder, name in (n.split("/") for n in names)))


def names_of(root, subject="sub-01_ses-02"):
    """The names of a subject's files without what all have in common."""
    files = found(root)[subject]
    return {key: value.removeprefix(SESSION).replace("sub-01_ses-02_", "").replace(".nii.gz", "")
            for key, value in files.items()}  # fmt: skip


@pytest.mark.parametrize(
    ("images", "taken"),
    [
        (["swi/swi"], {"image": "swi/swi"}),
        (["anat/T2starw"], {"t2star": "anat/T2starw"}),
        (["anat/T1w", "anat/T2starw", "anat/FLAIR"], {"t2star": "anat/T2starw"}),
        (["anat/MEGRE"], {"t2star": "anat/MEGRE"}),
        (["anat/part-mag_T2starw"], {"magnitude": "anat/part-mag_T2starw"}),
        (["anat/T2starw", "anat/part-phase_T2starw"], {"t2star": "anat/T2starw", "phase": "anat/part-phase_T2starw"}),
        (
            ["swi/swi", "swi/part-mag_GRE", "swi/part-phase_GRE"],
            {"image": "swi/swi", "magnitude": "swi/part-mag_GRE", "phase": "swi/part-phase_GRE"},
        ),
        (
            ["fmap/part-mag_MEGRE", "fmap/part-phase_MEGRE", "fmap/phasediff", "fmap/magnitude1"],
            {"magnitude": "fmap/part-mag_MEGRE", "phase": "fmap/part-phase_MEGRE"},
        ),
        (["anat/T2starw", "anat/space-T1w_desc-masked_T2starw"], {"t2star": "anat/T2starw"}),
        (["anat/space-T2S_desc-masked_T2S"], {"t2star": "anat/space-T2S_desc-masked_T2S"}),
    ],
)
def test_what_is_taken_of_a_session(tmp_path, images, taken):
    assert names_of(bids(tmp_path, *images)) == taken


def test_what_is_left_out_of_a_session_is_named(tmp_path):
    bids(tmp_path, "swi/swi", "swi/minIP", "anat/acq-fast_T2starw", "anat/part-real_T2starw")
    files = names_of(tmp_path)
    assert files.pop("notices") == (
        "acq-fast_T2starw was not read: there is a better scan of the session. "
        "part-real_T2starw was skipped: its name or JSON file says that it is no scan itself. "
        "minIP was skipped: its name says that it is a projection."
    )
    assert files == {"image": "swi/swi"}


@pytest.mark.parametrize(
    ("images", "taken", "said"),
    [
        (
            ["swi/swi", "swi/acq-raw_part-phase_GRE"],
            {"image": "swi/swi", "phase": "swi/acq-raw_part-phase_GRE"},
            "The phase acq-raw_part-phase_GRE was taken with swi, whose acq- differs.",
        ),
        (
            ["swi/run-1_swi", "swi/run-2_part-phase_GRE"],
            {"image": "swi/run-1_swi"},
            "run-2_part-phase_GRE was not read: the run- is that of no scan that was read.",
        ),
        (
            ["swi/run-1_part-mag_GRE", "swi/run-2_echo-1_part-phase_GRE", "swi/run-2_echo-2_part-phase_GRE"],
            {"magnitude": "swi/run-1_part-mag_GRE"},
            "run-2_echo-1_part-phase_GRE, run-2_echo-2_part-phase_GRE were not read: the run- is that of no scan that "
            "was read.",
        ),
        (
            ["swi/swi", "swi/acq-raw_run-2_part-phase_GRE", "swi/rec-b_part-phase_GRE", "swi/chunk-2_part-phase_GRE"],
            {"image": "swi/swi"},
            "acq-raw_run-2_part-phase_GRE was not read: acq- and run- are those of no scan that was read. "
            "chunk-2_part-phase_GRE was not read: the chunk- is that of no scan that was read. "
            "rec-b_part-phase_GRE was not read: the rec- is that of no scan that was read.",
        ),
        (
            ["swi/acq-x_swi", "swi/part-mag_GRE", "swi/part-phase_GRE"],
            {"image": "swi/acq-x_swi"},
            "part-mag_GRE, part-phase_GRE were not read: there is a better scan of the session.",
        ),
    ],
)
def test_a_phase_is_paired_across_another_acq_alone_and_that_is_said(tmp_path, images, taken, said):
    assert names_of(bids(tmp_path, *images)) == taken | {"notices": said}


@pytest.mark.parametrize(("echo", "taken"), [(-1, 3), (0, 1), (1, 2), (-3, 1)])
def test_the_option_echo_chooses_among_echoes(tmp_path, echo, taken):
    bids(tmp_path, *(f"anat/echo-{n}_part-{part}_MEGRE" for n in (1, 2, 3) for part in ("mag", "phase")))
    (subject,) = find_subjects(tmp_path, echo)
    assert subject["magnitude"].endswith(f"_echo-{taken}_part-mag_MEGRE.nii.gz")
    assert subject["phase"].endswith(f"_echo-{taken}_part-phase_MEGRE.nii.gz")
    assert subject["notices"].startswith(f"Of 3 echoes, sub-01_ses-02_echo-{taken}_part-mag_MEGRE.nii.gz was taken; ")
    left = [n for n in (1, 2, 3) if n != taken]
    assert all(f"echo-{n}_part-{part}_" in subject["notices"] for n in left for part in ("mag", "phase"))


def test_an_echo_that_is_not_there_fails_the_subject(tmp_path):
    bids(tmp_path, *(f"anat/echo-{n}_T2starw" for n in (1, 2)))
    touch(tmp_path, "sub-02/anat/sub-02_T2starw.nii.gz")
    first, second = find_subjects(tmp_path, 2)
    assert first["error"].startswith("echo 2 was asked for, but there are 2: ") and "0 to 1" in first["error"]
    assert "error" not in second


def test_sessions_runs_and_a_participant_without_any_scan(tmp_path):
    bids(tmp_path, "anat/run-1_T2starw", "anat/run-2_T2starw", "anat/echo-1_MEGRE")
    touch(tmp_path, "sub-01/ses-01/swi/sub-01_ses-01_swi.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz")
    touch(tmp_path, "sub-03/fmap/sub-03_magnitude1.nii.gz", "sub-03/fmap/sub-03_phase1.nii.gz")
    touch(tmp_path, "sub-05/fmap/sub-05_magnitude.nii.gz", "sub-05/fmap/sub-05_fieldmap.nii.gz")
    touch(tmp_path, "sub-04/dwi/sub-04_dwi.nii.gz", "derivatives/x/sub-01/anat/sub-01_desc-brain_T2starw.nii.gz")
    files = found(tmp_path)
    sessions = ["sub-01_ses-01", "sub-01_ses-02_run-1", "sub-01_ses-02_run-2"]
    assert list(files) == [*sessions, "sub-02", "sub-03", "sub-05"]
    assert files["sub-01_ses-02_run-2"]["t2star"].endswith("run-2_T2starw.nii.gz")
    assert "echo-1_MEGRE.nii.gz was not read" in files["sub-01_ses-02_run-1"]["notices"]
    assert "sub-02_T1w.nii.gz" in files["sub-02"]["error"]
    assert "sub-03_phase1.nii.gz" in files["sub-03"]["error"], "a field map is no magnitude with its phase"
    assert "sub-05_magnitude.nii.gz" in files["sub-05"]["error"]


@pytest.mark.parametrize("part", ["sub-01", "sub-01/ses-02"])
def test_the_folder_of_a_participant_or_a_session(tmp_path, part):
    bids(tmp_path, "swi/swi", "swi/part-phase_GRE", "anat/T1w")
    (subject,) = find_subjects(tmp_path / part)
    assert subject["subject"] == "sub-01_ses-02"
    assert subject["image"].endswith("_swi.nii.gz") and subject["phase"].endswith("_part-phase_GRE.nii.gz")


def test_labels_of_a_bids_data_set(tmp_path):
    bids(tmp_path, "swi/swi")
    touch(tmp_path, "sub-02/swi/sub-02_swi.nii.gz", "Label/sub-02.xlsx", "sub-03/anat/sub-03_T2starw.nii.gz")
    touch(tmp_path, "derivatives/labels/sub-01/ses-02/anat/sub-01_ses-02_space-orig_desc-cmb_dseg.nii.gz")
    touch(tmp_path, "derivatives/cmb/sub-03/anat/sub-03_desc-cmb_dseg.nii.gz")
    files = found(tmp_path)
    assert files["sub-01_ses-02"]["label"].endswith("desc-cmb_dseg.nii.gz")
    assert files["sub-02"]["label"] == "Label/sub-02.xlsx"
    assert "label" not in files["sub-03"], "what this bundle found is no label"


def test_other_subjects_beside_a_bids_tree_are_not_lost(tmp_path):
    bids(tmp_path, "swi/swi")
    touch(tmp_path, "P1_swi.nii.gz", "P2/swi.nii.gz", "sub-05/sub-05_T2S.nii.gz")
    assert list(found(tmp_path)) == ["P1", "P2", "sub-01_ses-02", "sub-05"]


# Participants and sessions


def cohort(root):
    for participant in ("01", "02", "003"):
        for session in ("a", "b")[: 1 if participant == "003" else 2]:
            name = f"sub-{participant}_ses-{session}"
            touch(root, f"sub-{participant}/ses-{session}/swi/{name}_swi.nii.gz")
            (root / "Label").mkdir(exist_ok=True)
            (root / f"Label/{name}.csv").write_text("1,2,3\n")
    return root


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"participant_label": "01"}, ["sub-01_ses-a", "sub-01_ses-b"]),
        ({"participant_label": ["sub-02", "003"], "session_label": "a"}, ["sub-003_ses-a", "sub-02_ses-a"]),
        ({"participant_label": "01,02", "session_label": ["ses-b"]}, ["sub-01_ses-b", "sub-02_ses-b"]),
        ({"session_label": "b"}, ["sub-01_ses-b", "sub-02_ses-b"]),
    ],
)
def test_participants_and_sessions_are_chosen(tmp_path, options, ids):
    assert [one["subject"] for one in Split(cohort(tmp_path), **options).part("all")] == ids
    content = make_datalist(tmp_path, folds=3, **options)
    assert [entry["subject"] for entry in content["training"]] == ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"participant_label": ["01", "99", "sub-7"]},
            "participant_label: there is no sub-99, sub-7 in .* 003, 01, 02",
        ),
        ({"session_label": "c"}, "session_label: there is no ses-c in the data set; there are a, b"),
        ({"participant_label": []}, "participant_label: there is no label given"),
        ({"participant_label": 1}, "there is no sub-1 in"),
        ({"participant_label": "003", "session_label": "b"}, "none of these participants has one of these sessions"),
    ],
)
def test_labels_that_are_not_there_are_named(tmp_path, options, message):
    with pytest.raises(SubjectError, match=message):
        Split(cohort(tmp_path), **options).part("all")


def test_labels_of_a_data_set_without_sessions(tmp_path):
    touch(tmp_path, "P1_swi.nii.gz")
    with pytest.raises(SubjectError, match="there is no ses-1 in the data set; there are no ids such as sub-01_ses-02"):
        Split(tmp_path, session_label="1").part("all")


def test_sessions_of_a_participant_are_in_one_fold(tmp_path):
    for participant in range(9):
        for session in ("a", "b", "c"):
            name = f"sub-{participant}_ses-{session}"
            touch(tmp_path, f"sub-{participant}/ses-{session}/swi/{name}_swi.nii.gz", f"Label/{name}.csv")
            (tmp_path / f"Label/{name}.csv").write_text("1,2,3\n")
    folds: dict = {}
    for entry in make_datalist(tmp_path, folds=3, seed=1)["training"]:
        folds.setdefault(entry["subject"].split("_")[0], set()).add(entry["fold"])
    assert len(folds) == 9 and all(len(one) == 1 for one in folds.values())
    assert {next(iter(one)) for one in folds.values()} == {0, 1, 2}


# JSON files


def test_a_json_file_applies_to_the_images_below_it(tmp_path):
    bids(tmp_path, "anat/acq-x_T2starw", "anat/T1w")
    image = tmp_path / SESSION / "anat/sub-01_ses-02_acq-x_T2starw.nii.gz"
    (tmp_path / "T2starw.json").write_text(json.dumps({"EchoTime": 0.02, "MagneticFieldStrength": 3, "Units": "rad"}))
    (tmp_path / "acq-y_T2starw.json").write_text(json.dumps({"EchoTime": 0.9}))
    (tmp_path / "sub-01/sub-01_T2starw.json").write_text(json.dumps({"EchoTime": 0.025}))
    about = read_sidecar(image)
    assert (about.echo_ms, about.field_tesla, about.units) == ((25.0,), 3.0, "rad")
    image.with_name("sub-01_ses-02_acq-x_T2starw.json").write_text(json.dumps({"EchoTime": 0.03}))
    assert read_sidecar(image).echo_ms == (30.0,) and read_sidecar(image).field_tesla == 3.0
    assert read_sidecar(image.with_name("sub-01_ses-02_T1w.nii.gz")).echo_ms == ()


# What is in the wrong place, or says so itself


def test_a_projection_is_known_by_any_entity_that_says_how_an_image_was_made(tmp_path):
    bids(tmp_path, "swi/rec-norm_swi", "swi/rec-minip_swi", "swi/acq-mIP_swi")
    (subject,) = find_subjects(tmp_path)
    assert subject["image"].endswith("rec-norm_swi.nii.gz")
    assert "rec-minip_swi.nii.gz was skipped" in subject["notices"]


@pytest.mark.parametrize("name", ["sub-02_ses-02_swi", "sub-01_ses-03_swi"])
def test_an_image_of_another_participant_or_session_fails(tmp_path, name):
    bids(tmp_path, "swi/swi")
    touch(tmp_path, f"sub-09/ses-02/swi/{name}.nii.gz", "sub-01/ses-02/swi/sub-01_ses-02_swi.json")
    failed, good = sorted(find_subjects(tmp_path), key=lambda one: "error" not in one)
    assert (good["subject"], failed["subject"]) == ("sub-01_ses-02", "sub-09_ses-02")
    assert "are named after another participant or session" in failed["error"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_json_files_in_other_encodings(tmp_path, encoding):
    bids(tmp_path, "anat/T2starw")
    image = tmp_path / SESSION / "anat/sub-01_ses-02_T2starw.nii.gz"
    text = json.dumps({"EchoTime": 0.03, "InstitutionName": "Universitätsklinik"}, ensure_ascii=False)
    image.with_name("sub-01_ses-02_T2starw.json").write_bytes(text.encode(encoding))
    assert read_sidecar(image).echo_ms == (30.0,)
    entries = json.dumps([{"subject": "é", "t2star": str(image)}], ensure_ascii=False)
    (tmp_path / "list.json").write_bytes(entries.encode(encoding))
    (subject,) = find_subjects(tmp_path / "list.json")
    assert (subject["subject"], subject["t2star"]) == ("é", str(image))
