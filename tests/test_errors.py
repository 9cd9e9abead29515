"""How a program ends on an error that a user can mend."""

import logging
import sys

import pytest

from cmb_bundle.scripts import errors
from cmb_bundle.scripts.errors import InputError, OptionError, root_cause, show_cause_last


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    former = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(former)


def wrapped(cause):
    """An error as MONAI wraps it."""
    try:
        try:
            raise cause
        except Exception as error:
            raise RuntimeError("Failed to instantiate component; set '_mode_=debug'") from error
    except RuntimeError as error:
        return error


def printed(error, capsys):
    sys.excepthook(type(error), error, error.__traceback__)
    return capsys.readouterr().err


def test_the_root_is_what_a_user_can_mend():
    cause = OptionError("wrong")
    cause.__cause__ = KeyError("deeper")
    assert root_cause(wrapped(cause)) is cause
    bug = KeyError("a bug")
    assert root_cause(wrapped(bug)) is bug


def test_every_error_of_input_is_one():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, InputError) for kind in kinds)


def test_the_traceback_goes_to_the_log(tmp_path, capsys):
    show_cause_last(tmp_path)
    words = printed(wrapped(OptionError("wrong")), capsys)
    log = tmp_path / "error.log"
    assert words == f"\nStopped. The traceback is in {log}; --debug True shows it here.\n\nwrong\n"
    assert log.read_text().startswith("Traceback")
    assert "_mode_=debug" in log.read_text()
    show_cause_last(tmp_path)
    assert not log.exists(), "of the former run"


def test_a_cohort_of_which_some_failed_was_not_stopped(tmp_path, capsys):
    show_cause_last(tmp_path)
    assert printed(errors.CohortError("1 of 5 failed; the others are done."), capsys) == (
        "\n\n1 of 5 failed; the others are done.\n"
    )
    assert (tmp_path / "error.log").exists()


def test_no_folder_is_made_for_the_log_and_none_need_be_writable(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "blocked" / "error.log").mkdir(parents=True)
    for folder in (None, tmp_path / "new", tmp_path / "file", tmp_path / "blocked"):
        show_cause_last(folder)
        words = printed(OptionError("wrong"), capsys)
        assert words == "\nStopped. --debug True shows the traceback.\n\nwrong\n"
    assert not (tmp_path / "new").exists()


def test_debug_prints_the_traceback(tmp_path, capsys):
    show_cause_last(tmp_path, debug=True)
    words = printed(wrapped(OptionError("wrong")), capsys)
    assert "Traceback" in words
    assert words.endswith("\n\nwrong\n")
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path, capsys):
    show_cause_last(tmp_path)
    words = printed(wrapped(KeyError("a bug")), capsys)
    assert "Traceback" in words
    assert words.strip().endswith("_mode_=debug'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("debug", "kept"), [(False, [False, True]), (True, [True, True])])
def test_loggers_leave_out_the_traceback_too(debug, kept, tmp_path, caplog):
    """As MONAI's StatsHandler, which logs what ends an engine."""
    show_cause_last(tmp_path, debug=debug)
    for cause in (OptionError("wrong"), KeyError("a bug")):
        try:
            raise wrapped(cause)
        except RuntimeError:
            logging.getLogger("stage_1").exception("Exception")
    assert [bool(record.exc_info) for record in caplog.records] == kept
