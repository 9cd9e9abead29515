"""The commands of the documentation are run as they stand, on a tiny cohort and for a few steps."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from .helpers.commands import commands
from .helpers.processes import run_code, run_module

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "cmb_bundle" / "docs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES.append(ROOT / "CONTRIBUTING.md")
PROTOCOL = ("field_tesla", "te_ms", "spacing")
QUICK = {
    "run training ": "--detector_epochs 1 --val_interval 1 --slices_per_subject 2 --classifier_epochs 1",
}


def test_readme_commands_run_in_their_order(tiny_cohort, tmp_path):
    (tmp_path / "cmb_bundle").symlink_to(ROOT / "cmb_bundle")
    (tmp_path / "scans").symlink_to(tiny_cohort)
    found = commands(ROOT / "README.md")
    assert len(found) == 4
    for page in ("find", "train", "adapt", "evaluate", "sensitivity"):
        found += [c for c in commands(ROOT / "docs" / f"{page}.md") if "cross_validate" not in c and c not in found]
    assert len(found) == 12
    for command in found:
        words = shlex.split(command)
        for start, extra in QUICK.items():
            words += shlex.split(extra) if start in command else []
        assert words[:2] == ["python", "-m"]
        done = run_module(words[2:], tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    assert (tmp_path / "training" / "model.pt").is_file()
    assert (tmp_path / "adapted" / "model.pt").is_file()
    assert all(
        (tmp_path / f"evaluation_{name}" / "report.html").is_file() for name in ("adapted", "shipped", "all", "after")
    )
    assert (tmp_path / "sensitivity" / "report.html").is_file()
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["end_to_end"]["n_subjects"] == 1


def test_command_of_the_phantom_page_makes_a_cohort(tmp_path):
    command = commands(ROOT / "docs" / "reference" / "phantom.md", "python -m cmb_bundle.scripts.phantom make_cohort")[
        0
    ]
    words = shlex.split(command.replace("--subjects 20", "--subjects 1").replace("LR", "TINY"))
    assert run_module(words[2:], tmp_path, timeout=300).returncode == 0
    assert [path.name for path in (tmp_path / "phantoms" / "Label").iterdir()] == ["phantom-001.xlsx"]


def test_command_of_the_page_on_follow_up_makes_two_scans_of_each_person(tmp_path):
    (command,) = commands(ROOT / "docs" / "follow_up.md", "python -m cmb_bundle.scripts.phantom make_cohort")
    words = shlex.split(command.replace("SMALL", "TINY"))
    assert run_module(words[2:], tmp_path, timeout=300).returncode == 0
    truths = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "scans" / "Truth").iterdir()}
    assert sorted(truths) == [f"sub-00{subject}_ses-{n}" for subject in (1, 2, 3) for n in (1, 2)]
    changed = [
        any(truths[f"sub-00{n}_ses-1"]["spec"][key] != truths[f"sub-00{n}_ses-2"]["spec"][key] for key in PROTOCOL)
        for n in (1, 2, 3)
    ]
    assert sum(changed) == 1  # as the page says
    assert any(bleed["new"] for truth in truths.values() for bleed in truth["microbleeds"])


def test_model_card_has_the_commands_of_the_readme():
    readme = {command.replace("cmb_bundle/", "") for command in commands(ROOT / "README.md")}
    card = commands(ROOT / "cmb_bundle" / "docs" / "README.md")
    made_by = [command for command in card if "--folds 8" in command]
    assert set(card) - set(made_by) == readme
    trained = [
        command.replace("cmb_bundle/", "")
        for command in commands(ROOT / "docs" / "how_it_was_made" / "weights.md", "python -m monai.bundle run training")
    ]
    assert len(made_by) == 3
    assert [command.replace("cohorts/kinds_training", "scans") for command in trained[2:5]] == made_by


COMMANDS = [(page, command) for page in PAGES for command in commands(page, ("python -m monai.bundle run", "torchrun"))]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda value: getattr(value, "name", None) or value[:60])
def test_commands_name_files_and_options_that_exist(page, command):
    words = shlex.split(command)
    given = dict(
        zip(words[words.index("--config_file") :: 2], words[words.index("--config_file") + 1 :: 2], strict=True)
    )
    files = given.pop("--config_file")
    files = ast.literal_eval(files) if files.startswith("[") else [files]
    config = {}
    for name in files:
        config |= json.loads((ROOT / "cmb_bundle" / name.removeprefix("cmb_bundle/")).read_text())
    for option in given:
        key = option.removeprefix("--").partition("#")[0]
        assert key in config or key in ("tracking", "save_execute_config"), option  # the two are MONAI's own
    run_id = words[words.index("run") + 1]
    assert run_id.startswith("--") or run_id in config


def written(cell):
    """The value that a cell of a table of options states in backticks; None for one in words."""
    found = re.fullmatch(r"`([^`]+)`(?: \(all\))?", cell)
    if found is None:
        return None
    text = {"null": "None"}.get(found.group(1), found.group(1))
    try:
        return (ast.literal_eval(text),)
    except (SyntaxError, ValueError):
        return (text,)


OPTIONS = {
    "README.md": ["inference.json"],
    "docs/find.md": ["inference.json"],
    "docs/cohort.md": ["inference.json", "cohort.json"],
    "docs/follow_up.md": ["inference.json", "follow_up.json"],
    "docs/train.md": ["train.json"],
    "docs/evaluate.md": ["inference.json", "evaluate.json"],
    "docs/sensitivity.md": ["implant.json"],
    "docs/review.md": ["review.json"],
}


@pytest.mark.parametrize("page", OPTIONS)
def test_options_have_the_defaults_of_the_configs(page):
    config = {}
    for name in OPTIONS[page]:
        config |= json.loads((ROOT / "cmb_bundle" / "configs" / name).read_text())
    table = (ROOT / page).read_text(encoding="utf-8").split("| option | default | unit | meaning |\n", 1)[1]
    rows = re.findall(r"^\| `(\w+)`[ *]*\| (.*?) \|", table.split("\n\n", 1)[0], re.MULTILINE)
    assert len(rows) >= 5
    for key, default in rows:
        assert key in config, key
        computed = isinstance(config[key], dict) or str(config[key]).startswith(("$", "@"))
        value = written(default)
        if value is not None and not computed:
            assert value == (config[key],), key
        else:  # what is computed, or found where it is null, is in words, as a list of transforms or a file's name
            assert computed or config[key] is None or isinstance(config[key], list), key


def test_the_csv_of_the_readme_has_the_columns_that_are_written(tmp_path):
    from cmb_bundle.scripts.data import LabelConvention
    from cmb_bundle.scripts.inference.writers import findings_table

    shown = re.search(r"^lesion,slice.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE).group(0)
    assert shown.split(",") == list(findings_table([], (4, 4, 4), LabelConvention()).columns)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_are_there(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_each_row_of_the_inputs_names_a_test_that_exists():
    page = (ROOT / "docs" / "reference" / "inputs.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    assert len(rows) >= 50
    for row in rows:
        named = re.search(r"`([\w/]+\.py)::(\w+)` \|$", row)
        assert named, row
        text = (ROOT / "tests" / named[1]).read_text(encoding="utf-8")
        assert re.search(rf"^def {named[2]}\(", text, re.MULTILINE), row


@pytest.mark.parametrize("page", ["README.md", "cmb_bundle/docs/README.md"])
def test_it_is_said_that_nothing_was_validated_on_patients(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").replace(">", " ").split())
    assert "simulated scans alone" in text
    assert "not for diagnosis" in text.lower()


def test_makefile_demo_uses_commands_of_the_readme():
    demo = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(ROOT / "README.md"):
        run_id = re.search(r"run (training )?--config_file (\S+)", command).group(0)
        assert (
            run_id in demo
            or "inference.json --dataset_dir scans --output_dir results" in command
            or "adapted" in command
        )


def test_the_bundle_works_copied_elsewhere_alone(tmp_path):
    """Its folder, without the package around it, gives the network of the config."""
    shutil.copytree(ROOT / "cmb_bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("__pycache__"))
    config = str(tmp_path / "bundle" / "configs" / "train.json")
    code = (
        "from monai.bundle import ConfigWorkflow\n"
        f"w = ConfigWorkflow(config_file={config!r}, workflow_type='train')\n"
        "w.initialize()\n"
        "import sys; n = w.network_def\n"
        "assert 'cmb_bundle' not in sys.modules\n"
        "print(sys.modules['scripts'].__file__, type(n).__name__)\n"
    )
    done = run_code(code, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-2:] == [str(tmp_path / "bundle" / "scripts" / "__init__.py"), "TwoStageNetwork"]
