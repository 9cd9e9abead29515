"""Options that a person got wrong: the command, and the last lines of what it prints."""

import importlib
import itertools
import json
import logging
import os
import sys

import monai.bundle
import pytest
from monai.bundle import ConfigWorkflow

from ..helpers import CONFIGS, TINY_CONFIG

OPTION = "no such option: "
TRUTH = "expected a truth value, on the command line True or False."


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """A workflow changes what this process does with its last error and with its log."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.syspath_prepend(str(CONFIGS.parent))
    former = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(former)


@pytest.fixture
def last_words(tmp_path, monkeypatch, capfd):
    """Run a command in this process, as ``python -m monai.bundle run`` does; returns what an error of it prints."""
    monkeypatch.chdir(tmp_path)

    def command(run_id, *names, **options):
        files = [str(CONFIGS / name) if isinstance(name, str) else str(name) for name in names]
        capfd.readouterr()
        try:
            options = {"output_dir": str(tmp_path / "output")} | options
            monai.bundle.run(run_id, config_file=files, logging_file=False, **options)
        except Exception as error:
            # it ends up in the hook by the way that the interpreter takes
            sys.excepthook(type(error), error, error.__traceback__)
            return capfd.readouterr().err
        raise AssertionError("nothing was refused")

    return command


def initialise(*names, **options):
    files = [str(CONFIGS / name) if isinstance(name, str) else str(name) for name in names]
    workflow = ConfigWorkflow(files, workflow_type=None, logging_file=False, **options)
    workflow.initialize()
    return workflow


def message_of(*names, **options):
    """The message of the error that ends the initialisation."""
    errors = importlib.import_module("scripts.errors")
    with pytest.raises(Exception, match="Failed to") as caught:
        initialise(*names, **options)
    cause = errors.root_cause(caught.value)
    assert isinstance(cause, errors.OptionError), repr(cause)
    return str(cause)


@pytest.mark.parametrize("name", ["inference", "train"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"surroundings_size": 61}, "surroundings_size is 61; expected patch_size, [24, 24, 8], and an even number of"),
        ({"surroundings_size": [60, 60, 13]}, "surroundings_size is [60, 60, 13]; expected patch_size, [24, 24, 8]"),
        ({"surroundings_size": [16, 60, 14]}, "surroundings_size is [16, 60, 14]; expected patch_size, [24, 24, 8]"),
        ({"patch_size": [24, 24, 10]}, "patch_size is [24, 24, 10]; expected multiples of 8, 8 and 4 voxels."),
        ({"patch_size": [32, 32, 16]}, "surroundings_size is [60, 60, 14]; expected patch_size, [32, 32, 16]"),
    ],
)
def test_sizes_of_patches_that_do_not_fit_each_other(name, options, expected):
    workflow = initialise(f"{name}.json", **options)
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow.parser.get_parsed_content("network_def")
    errors = importlib.import_module("scripts.errors")
    cause = errors.root_cause(caught.value)
    assert isinstance(cause, errors.OptionError), repr(cause)
    assert str(cause).startswith(expected)


WRONG = [
    ("inference", "device", "cuda:99", "device is 'cuda:99', but "),
    ("inference", "device", "gpu", "device is 'gpu'; expected cpu, cuda, or cuda:0"),
    ("train", "device", "$torch.device('gpu')", "which gives no value: Expected one of cpu"),
    ("inference", "precision", "half", "expected auto (inference alone), float32 or bfloat16."),
    ("train", "precision", 16, "expected auto (inference alone), float32 or bfloat16."),
    ("inference", "candidate_threshold", 1.5, "candidate_threshold is 1.5; expected a number from 0 to 1."),
    ("inference", "probability_threshold", -0.1, "expected a number from 0 to 1."),
    ("train", "candidate_threshold", "low", "candidate_threshold is 'low'; expected a number from 0 to 1."),
    ("inference", "operating_point", "sensible", "expected one of specific, balanced, sensitive"),
    ("train", "detector_epochs", "many", "detector_epochs is 'many'; expected a whole number, 1 or more."),
    ("train", "detector_epochs", 2.5, "expected a whole number, 1 or more."),
    ("train", "classifier_epochs", True, "expected a whole number, 1 or more."),
    ("train", "detector_batch_size", 0, "expected a whole number, 1 or more."),
    ("train", "classifier_batch_size", 0, "expected a whole number, 1 or more."),
    ("train", "classifier_learning_rate", "fast", "expected a number of 0 or more."),
    ("train", "slice_size", 176, "expected two whole numbers of pixels"),
    ("train", "cache_rate", 2, "expected a number from 0 to 1."),
    ("inference", "spacing", 0.6, "spacing is 0.6; expected three lengths of 0.1 to 20 mm, as '[0.6,0.6,2.0]'."),
    ("train", "spacing", [0.6, 0.6], "expected three lengths"),
    ("inference", "spacing", [-0.6, 0.6, 2.0], "expected three lengths"),
    ("inference", "spacing", [0.6, 0.6, 1e-4], "expected three lengths"),
    ("inference", "device", 10**30, "expected cpu, cuda, or cuda:0"),
    ("inference", "average", 2, "average is 2; expected an odd number of slices, 1 to 99."),
    ("train", "context", 10**30, "expected an odd number of slices, 1 to 99."),
    ("inference", "score_slices", 10**30, "expected a whole number, 1 to 999."),
    ("inference", "patch_size", 10**30, "expected a number of voxels, 1 to 512, or three of them."),
    ("inference", "label_convention", "swap_xy", "expected an object of index_base, swap_xy, flip_x"),
    ("inference", "phase_scale", 0, "phase_scale is 0; expected radians per stored unit, above 0"),
    ("inference", "phase_sign", "minus", "expected auto, 1 or -1."),
    ("inference", "phase_channel", "swi", "expected complement, zero or none."),
    ("inference", "output_layout", "BIDS", "output_layout is 'BIDS'; expected default or bids"),
    ("train", "participant_label", 1.5, "participant_label is 1.5; expected a label or a list of labels"),
    ("inference", "subjects", "P03", "subjects is 'P03'; expected a list of ids, as"),
    ("inference", "subset", "tests", "expected all, train, validation or test."),
    ("inference", "merge_mm", float("nan"), "expected a length in mm, above 0."),
    ("inference", "dicom_output", "yes", "expected auto, True or False."),
    ("inference", "picture", "false", f"picture is 'false'; {TRUTH}"),
    ("inference", "accept_any", "yes", f"accept_any is 'yes'; {TRUTH}"),
    ("inference", "debug", "yes", f"debug is 'yes'; {TRUTH}"),
    ("implant", "microbleeds", 0, "expected a whole number, 1 or more, or None for the published distribution."),
    ("implant", "diameter_mm", 3, "expected the smallest and the largest, 0.5 to 20 mm, as '[2,5]'."),
    ("implant", "te_ms", "20ms", "expected a time in ms, or None for that of the header."),
    ("report", "bootstrap", -1, "expected a whole number, 0 or more."),
    ("report", "distance_mm", 0, "expected a length in mm, above 0."),
]


@pytest.mark.parametrize(("config", "name", "value", "expected"), WRONG)
def test_a_wrong_value_is_refused_before_any_work(config, name, value, expected, tmp_path):
    message = message_of(f"{config}.json", **{"output_dir": str(tmp_path / "output"), name: value})
    assert message.startswith(f"{name} is ")
    assert expected in message
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("config", ["train", "inference", "report"])
def test_an_output_folder_that_cannot_be_written_to_is_refused(config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        message = message_of(f"{config}.json", output_dir=str(path))
        assert message.startswith(f"output_dir is {path}, but {tmp_path / 'file'} is a file; expected a folder.")
    message = message_of(f"{config}.json", output_dir=3)
    assert message == "output_dir is 3; expected the path of a folder."
    # whoever tests as root may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    message = message_of(f"{config}.json", output_dir=str(tmp_path / "output"))
    assert f"but the folder {tmp_path} cannot be written to" in message


@pytest.mark.parametrize(
    ("names", "options", "expected"),
    [
        (["inference.json"], {"operating_pont": "sensitive"}, "operating_pont; did you mean operating_point?"),
        (["inference.json"], {"dataset_dirr": "scans"}, "dataset_dirr; did you mean dataset_dir?"),
        (["inference.json", "evaluate.json"], {"distance": 4}, "distance; did you mean distance_mm?"),
        (["train.json"], {"detecter_epochs": 3}, "detecter_epochs; did you mean detector_epochs?"),
        (["train.json"], {"devise": "$torch.device('cpu')"}, "devise; did you mean device?"),
        (["train.json", "cross_validate.json"], {"run_fold": [1]}, "run_fold; did you mean run_folds?"),
        (["report.json"], {"record": []}, "record; did you mean records?"),
        (["report.json"], {"zzz": 1}, "zzz."),
        (
            ["inference.json"],
            {"network_def#detector#network#wdith": 0.5},
            "network_def#detector#network#wdith; did you mean network_def#detector#network#width?",
        ),
        (["train.json"], {"train#dataset#cach_rate": 0}, "train#dataset#cach_rate; did you mean"),
    ],
)
def test_an_option_that_does_not_exist_is_refused(names, options, expected, tmp_path):
    message = message_of(*names, output_dir=str(tmp_path / "output"), **options)
    assert message.startswith(OPTION + expected)


def test_an_option_that_does_not_exist_is_refused_in_an_overlay(tmp_path):
    overlay = tmp_path / "mine.json"
    overlay.write_text(json.dumps({"operating_pont": "sensitive"}))
    assert message_of("inference.json", overlay) == f"{OPTION}operating_pont; did you mean operating_point?"
    overlay.write_text(json.dumps({"minimum": 0.2, "candidate_threshold": "$@minimum / 2", "again": ["$@minimum"]}))
    assert initialise("inference.json", overlay).parser.get_parsed_content("candidate_threshold") == 0.1


def test_the_command_line_takes_no_option_of_another_config(last_words, tmp_path):
    """A file may have it: one overlay serves training and inference."""
    words = last_words("run", "inference.json", detector_epochs=3)
    assert words.endswith(f"{OPTION}detector_epochs.\n")
    words = last_words("run", "inference.json", **{"label_convention#swap_yx": True})
    assert words.endswith(f"{OPTION}label_convention#swap_yx; did you mean label_convention#swap_xy?\n")
    initialise("inference.json", TINY_CONFIG)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("spacing", "spacing is None; expected three lengths of 0.1 to 20 mm, as '[0.6,0.6,2.0]'."),
        ("phase_sign", "phase_sign is None; expected auto, 1 or -1."),
        ("operating_point", "operating_point was given as None, which MONAI passes over: it would stay 'balanced'."),
        ("dicom_series", "it would stay {'image': None, 'phase': None, 'magnitude': None, 't2star': None}."),
        ("network_def#detector#network#width", "network_def#detector#network#width '$None', with the quotes, or null"),
        ("network_def#detector#nms_thresh", "would stay as it is."),
        ("label_convention#swap_yx", f"{OPTION}label_convention#swap_yx; did you mean label_convention#swap_xy?"),
        ("operating_pont", f"{OPTION}operating_pont; did you mean operating_point?"),
    ],
)
def test_none_on_the_command_line_is_not_lost(option, expected, last_words):
    """MONAI leaves an option of None out, and the config's own value would stay in silence."""
    assert expected in last_words("run", "inference.json", **{option: None})


def test_none_that_is_none_already_or_is_written_as_an_expression_is_taken(last_words):
    assert last_words("run", "inference.json", phase_scale=None, subjects=None).endswith(f"{NO_DATA}\n")
    assert last_words("run", "inference.json", phase_scale="$None", label_key="$None").endswith(f"{NO_DATA}\n")
    words = last_words("run", "inference.json", spacing="$None")
    assert words.endswith("spacing is None; expected three lengths of 0.1 to 20 mm, as '[0.6,0.6,2.0]'.\n")


def test_an_option_below_a_part_that_does_not_exist_stops_in_monai(tmp_path):
    """MONAI looks the part up before anything of the bundle is loaded; what it says ends with the wrong name."""
    with pytest.raises(KeyError, match="query key: detecter"):
        initialise("train.json", **{"network_def#detecter#width": 0.5})
    overlay = tmp_path / "mine.json"
    overlay.write_text(json.dumps({"network_def#detecter#width": 0.5}))
    with pytest.raises(KeyError, match="query key: detecter"):
        initialise("train.json", overlay)


OVERLAYS = sorted(
    {path.name for path in CONFIGS.glob("*.json")}
    - {"metadata.json", "train.json", "inference.json", "report.json", "audit.json", "implant.json"}
    - {"review.json", "agreement.json"}
)


@pytest.mark.parametrize(("main", "overlay"), itertools.product(["train.json", "inference.json"], OVERLAYS))
def test_every_overlay_goes_on_working(main, overlay, tmp_path):
    of_training = {"cross_validate.json", "federated.json", "federated_classifier.json", "select_by_froc.json"}
    if overlay == "multi_gpu_train.json" or (overlay in of_training) > (main == "train.json"):
        pytest.skip("not for this config, or for several processes alone")
    if overlay == "evaluate.json" and main == "train.json":
        pytest.skip("not for training")
    initialise(main, overlay, output_dir=str(tmp_path))


@pytest.mark.parametrize(
    "overlays", [[TINY_CONFIG], ["al_masni_2020.json", TINY_CONFIG.with_name("tiny_published.json")]]
)
@pytest.mark.parametrize("main", ["train.json", "inference.json"])
def test_overlays_of_the_tests_and_tracking_go_on_working(main, overlays, tmp_path):
    initialise(main, *overlays, output_dir=str(tmp_path), tracking="mlflow", experiment_name="mine")


@pytest.mark.parametrize("names", [["inference.json"], ["inference.json", "evaluate.json"]])
def test_inference_without_data_has_its_properties_and_does_not_run(names, tmp_path):
    errors = importlib.import_module("scripts.errors")
    files = [str(CONFIGS / name) for name in names]
    workflow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, output_dir=str(tmp_path / "output"))
    workflow.initialize()
    assert workflow.check_properties() == []
    with pytest.raises(Exception, match="Failed to") as caught:
        workflow.run()
    cause = errors.root_cause(caught.value)
    assert isinstance(cause, errors.SubjectError)
    assert str(cause) == (
        "There are no subjects: no dataset_dir was given. Expected the folder of the scans: --dataset_dir FOLDER."
    )
    assert not (tmp_path / "output").exists()


NO_DATA = "There are no subjects: no dataset_dir was given. Expected the folder of the scans: --dataset_dir FOLDER."
ENDS = [
    ("run", ["inference.json"], {}, NO_DATA),
    ("run", ["inference.json"], {"dataset_dirr": "scans"}, f"{OPTION}dataset_dirr; did you mean dataset_dir?"),
    ("run", ["inference.json", "evaluate.json"], {"device": "gpu"},
     "device is 'gpu'; expected cpu, cuda, or cuda:0, cuda:1, ..."),
    ("training", ["train.json"], {"detector_epochs": "many"},
     "detector_epochs is 'many'; expected a whole number, 1 or more."),
    ("trainnig", ["train.json"], {}, "no such action: trainnig; did you mean training?"),
    ("run", ["train.json", "cross_validate.json"], {"dataset_dir": "scans", "run_folds": [7]},
     "run_folds is [7]; expected numbers from 0 to 4, as '[0,1]'."),
    ("run", ["report.json"], {"bootstrap": "no"}, "bootstrap is 'no'; expected a whole number, 0 or more."),
    ("run", ["audit.json"], {"join_mm": -1}, "join_mm is -1; expected a length in mm, 0 or more."),
    ("run", ["train.json", "multi_gpu_train.json"], {},
     "multi_gpu_train.json needs several processes. Start it as torchrun --standalone --nproc_per_node=N -m "
     "monai.bundle run ..., or leave it out to train in one process."),
]  # fmt: skip


@pytest.mark.parametrize(("run_id", "names", "options", "expected"), ENDS)
def test_one_paragraph_is_the_last_thing_printed(run_id, names, options, expected, last_words, tmp_path):
    """Without the traceback, which is in the output folder where there is one, and on the screen where asked for."""
    words = last_words(run_id, *names, **options)
    assert words.endswith(f"\nStopped. --debug True shows the traceback.\n\n{expected}\n")
    assert "Traceback" not in words
    output = tmp_path / "output"
    assert not output.exists()

    output.mkdir()
    words = last_words(run_id, *names, **options)
    log = output / "error.log"
    assert words.endswith(f"\nStopped. The traceback is in {log}; --debug True shows it here.\n\n{expected}\n")
    assert "Traceback" not in words
    assert log.read_text().startswith("Traceback (most recent call last)")
    assert expected in log.read_text()

    words = last_words(run_id, *names, **options, debug=True)
    assert "Traceback (most recent call last)" in words
    assert words.endswith(f"\n{expected}\n")
    assert not log.exists()


@pytest.mark.parametrize(
    ("run_id", "names", "options", "expected"),
    [
        ("run", ["inference.json"], {"dataset_dirr": "scans"}, f"{OPTION}dataset_dirr; did you mean dataset_dir?"),
        ("training", ["train.json"], {"classifier_batch_size": 0}, "expected a whole number, 1 or more."),
    ],
)
def test_the_command_ends_in_one_paragraph(run_id, names, options, expected, bundle, tmp_path):
    done = bundle(run_id, names, tmp_path, check=False, output_dir=tmp_path, **options)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith(expected)
    assert "Traceback" not in done.stdout + done.stderr
    assert expected in (tmp_path / "error.log").read_text()
