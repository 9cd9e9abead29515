"""In which order the scans of a patient were made, by their dates and names; what cannot be told is not guessed."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from cmb_bundle.scripts.errors import CohortError, FollowUpError
from cmb_bundle.scripts.follow_up import Protocol, Registration, patients_of, run
from cmb_bundle.scripts.follow_up.dates import readings
from cmb_bundle.scripts.follow_up.run import FollowUp


def by_name(*labels):
    """The visits of a patient of a BIDS data set, whose sessions have no dates."""
    return patients_of([{"subject": f"sub-1_ses-{label}"} for label in labels])["sub-1"]


def by_date(*dates, labels=None, others=()):
    """The visits of a patient of a datalist, whose scans have ids that tell nothing unless labels are given."""
    entries = [{"subject": f"{'uvwxyz'[n] * 2}", "patient": "P"} for n in range(len(dates))]
    entries = [one | ({"date": date} if date else {}) for one, date in zip(entries, dates, strict=True)]
    if labels:
        entries = [one | {"session": label} for one, label in zip(entries, labels, strict=True)]
    others = [{"subject": f"other{n}", "patient": "Q", "date": date} for n, date in enumerate(others)]
    return patients_of([*entries, *others])["P"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("labels", "by"),
    [
        ("pre post", "words"),
        ("preop postop", "words"),
        ("initial followup", "words"),
        ("screening baseline m06 final", "words"),
        ("scr m12", "words"),
        ("BL FU1 FU2", "words and numbers"),
        ("first second third", "words and numbers"),
        ("entry x end", "words"),
        ("1 2 fu", "numbers and words"),
        ("pre1 pre2 post1 post2", "numbers and words"),
        ("1pre 1post 2pre 2post", "words and numbers"),
        ("bl fu6m fu1y", "words and times"),
        ("m3 fu6m", "times"),
        ("6m 1y", "times"),
        ("w4 m3 y1", "times"),
        ("24h 7d 3weeks", "times"),
        ("6m 1y6m 2y", "times"),
        ("d0129 d0757", "times"),
        ("v0 m6", "numbers"),
        ("v9 v10", "numbers"),
        ("T1 T2", "numbers"),
        ("2009 2010", "numbers"),
        ("1 1b 2", "letters and numbers"),
        ("A B C", "letters"),
        ("dec2018 jan2019", "dates"),
        ("20180501 20190401", "dates"),
        ("21022018 03112019", "dates"),
        ("5022018 4032019", "dates"),
    ],
)
def test_names_tell_the_order(labels, by, turned):
    labels = labels.split()
    visits = by_name(*(labels[::-1] if turned else labels))
    assert [one.label for one in visits] == [f"ses-{label}" for label in labels]
    assert visits.order == f"the {by} in their names"
    listed = ", ".join(f"ses-{label}" for label in labels)
    assert visits.notices == (f"Order of the scans by {visits.order}, as no dates are known: {listed}.",)


@pytest.mark.parametrize(
    "labels",
    [
        ("6-month", "Month 12"),
        ("baseline", "Follow-up 1"),
        ("Post OP", "follow up"),
        ("1y", "1.5y", "2 years"),
        ("P01_m6", "P01_y1"),
        ("01_6m", "01_1y"),
        ("2018-06-01", "2019-05-01"),
        ("03/05/2018", "12/01/2019"),
    ],
)
def test_names_of_a_datalist_tell_the_order(labels):
    assert [one.label for one in by_date(*[""] * len(labels), labels=labels[::-1])] == list(labels)


@pytest.mark.parametrize(
    "labels",
    [
        "red blue",
        "mri1 ct2",  # which of the numbers are times?
        "base foo bar",
        "pre post 6m",  # the operation may be before or after the sixth month
        "post1 2",
        "m12 y1",
        "v1 m6",
        "scan scan2",
        "05012019 01112019",  # 5 January or 1 May
        "31122018 01132019",  # one has the day first, one the month
    ],
)
def test_names_that_do_not_tell_the_order_are_refused(labels):
    visits = by_name(*labels.split())
    listed = ", ".join(f"ses-{label}" for label in labels.split())
    message = (
        f"The order of the scans in time is not known. They have no dates, and the names of the sessions, {listed}, do "
        "not, as numbers or words such as baseline and followup would. Give the date of each scan, as YYYY-MM-DD: "
        'acq_time in <patient>_sessions.tsv of a BIDS data set, or "date" in a datalist.'
    )
    assert (visits.error, len(visits)) == (message, len(labels.split()))
    with pytest.raises(FollowUpError) as raised:
        FollowUp.compare(FollowUp.__new__(FollowUp), "sub-1", visits)
    assert str(raised.value) == message


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "dates",
    [
        ("21.02.2018", "03.11.2019"),
        ("03.11.2018", "02.12.2018"),  # with points the day is first, even where the month could be
        ("11.26.2018", "12.05.2018"),
        ("2019-5-1", "2019-11-01"),
        ("20190501", "2019-05-02"),
        ("2019-05-01T8:00:00", "2019-05-01 12:00"),
        ("5/1/2019 10:00 AM", "5/1/2019 3:05 PM"),
        ("2019-01-01T00:30:00+01:00", "2018-12-31T23:45:00Z"),
        ("3 Okt 2018", "jan2019", "May 1, 2019"),
        ("2018-12", "2019-01-01"),
        ("1/31/2019", "12/1/2019"),
        ("1/11/2019", "13/12/2019"),
        ("12/01/2019", "03/05/2021"),
        ("5/1/2019", "11/1/2019"),
        ("20220101120000", "20220101120000.500"),
        ("43586", "44000"),
        ("0", "365", "1825"),
    ],
)
def test_dates_tell_the_order(dates, turned):
    visits = by_date(*(dates[::-1] if turned else dates))
    assert ([one.date for one in visits], visits.order, visits.notices) == ([*dates], "their dates", ())


def test_a_day_above_twelve_of_another_patient_tells_what_is_first():
    two = "5/1/2019", "1/11/2019"
    assert [one.date for one in by_date(*two, others=["31/1/2019"])] == ["5/1/2019", "1/11/2019"]
    assert [one.date for one in by_date(*two, others=["1/31/2019"])] == ["1/11/2019", "5/1/2019"]
    assert by_date(*two, others=["1/31/2019", "31/1/2019"]).error == by_date(*two).error != ""


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (
            ("5/1/2019", "1/11/2019"),
            "The dates 5/1/2019 of uu and 1/11/2019 of vv can be read with the day or the month first, which gives "
            "another order of the scans. Write dates as YYYY-MM-DD, such as 2019-05-31.",
        ),
        (
            ("13/1/2019", "1/13/2019"),
            "The dates 13/1/2019 of uu and 1/13/2019 of vv cannot all be read alike: one has the day first, another "
            "the month or the year. Write dates as YYYY-MM-DD, such as 2019-05-31.",
        ),
        (
            ("2019-05-01", "soon"),
            "The date of vv, 'soon', cannot be read. Write dates as YYYY-MM-DD, such as 2019-05-31.",
        ),
        (
            ("2019-05", "2019-05-03"),
            "The order of the scans in time is not known. Their dates (2019-05, 2019-05-03) do not tell it, and the "
            "names of the sessions, uu, vv, do not, as numbers",
        ),
        (
            ("2019-05-01", "n/a"),
            "The order of the scans in time is not known. There is no date of vv, and the names of the sessions, uu, "
            "vv, do not, as numbers",
        ),
    ],
)
def test_dates_that_do_not_tell_the_order_are_refused(dates, message):
    assert by_date(*dates).error.startswith(message)


def test_dates_win_over_names_with_a_warning():
    visits = by_date("2020-01-01", "2019-01-01", labels=["1", "2"])
    assert ([one.label for one in visits], visits.order) == (["2", "1"], "their dates")
    assert visits.notices == (
        "Warning: the names of the sessions tell another order than their dates (2 2019-01-01, 1 2020-01-01): the "
        "dates were taken. Look whether these are right.",
    )
    ids = [{"subject": f"scan{n}", "patient": "P", "date": f"{2020 - n}"} for n in (1, 2)]
    assert patients_of(ids)["P"].notices == ()  # an id is no name of a session


def test_where_some_have_dates_the_names_tell_the_rest():
    visits = by_date("", "2020-01-01", "2019-01-01", labels=["baseline", "foo", "bar"])
    assert [one.label for one in visits] == ["baseline", "bar", "foo"]
    assert visits.notices == (
        "Order of the scans by their dates and the words in their names, as not all have a date: baseline, bar, foo.",
    )
    wrong = by_date("2020-01-01", "2019-01-01", "", labels=["1", "2", "3"])
    assert wrong.error.startswith("The names of the sessions, 1, 2, 3, tell another order than the dates of those")
    same = by_date("2019-01-01", "2019-01-01", labels=["2", "1"])
    assert same.notices == ("Order of the scans by the numbers in their names, as dates are the same: 1, 2.",)


@pytest.mark.parametrize("text", ["soon", "43586", "2019-13-01", "31.02.2019", "m12", "19-5", "study jan 2019", ""])
def test_what_is_no_date(text):
    assert readings(text) == {}


def test_one_scan_needs_no_order():
    assert [one.date for one in by_date("soon")] == ["soon"]
    assert [one.subject for one in patients_of([{"subject": f"sub-1_ses-a_run-{n}"} for n in (1, 2)])["sub-1"]] == [
        "sub-1_ses-a_run-1",
        "sub-1_ses-a_run-2",
    ]


def test_a_patient_of_unknown_order_fails_and_the_order_of_the_others_is_told(tmp_path, monkeypatch, capsys):
    names = ["sub-1_ses-post", "sub-1_ses-pre", "sub-2_ses-blue", "sub-2_ses-red"]
    data = SimpleNamespace(dataset=SimpleNamespace(data=[{"subject": name} for name in names]))
    evaluator = SimpleNamespace(run=lambda: None, failures={}, incomplete={}, data_loader=data)

    def scan(session, *_):
        image, labels = np.zeros((4, 4, 4), np.float32), nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
        image.flat[0] = session.label == "ses-post"  # else it were a copy
        protocol = Protocol("swi", (1.0, 1.0, 1.0), 3.0, 20.0)
        return run.FoundScan(session, image, np.eye(4), image < 2, protocol, (), (), 0.5, labels)

    monkeypatch.setattr(run, "read_scan", scan)
    monkeypatch.setattr(run, "register_rigidly", lambda *_: Registration(np.eye(4), 2.0, 1.0, 0.0))
    with pytest.raises(CohortError) as raised:
        FollowUp(evaluator, None, tmp_path, picture=False).run()
    notice = "Order of the scans by the words in their names, as no dates are known: ses-pre, ses-post."
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sub-1: 2 scans, since sub-1_ses-pre 0 new")
    assert lines[1:] == [f"  {notice}"]
    content = json.loads((tmp_path / "follow_up/sub-1/sub-1_cmb_follow_up.json").read_text())
    assert (content["order"], content["notices"]) == ("the words in their names", [notice])
    assert [one["subject"] for one in content["scans"]] == ["sub-1_ses-pre", "sub-1_ses-post"]
    failed = pd.read_csv(tmp_path / "failures.csv")
    assert list(failed["subject"]) == ["sub-2"]
    assert "the names of the sessions, ses-blue, ses-red, do not" in failed["reason"][0]
    assert str(raised.value).startswith("1 of 2 patients has no follow-up; the others are done.\n  sub-2: The order")
