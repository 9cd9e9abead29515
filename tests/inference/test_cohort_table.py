"""The table of a run has each subject's warnings, those of scans without findings and the failures too."""

import json

import pandas as pd
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from cmb_bundle.scripts.inference import CohortTable


def results(folder, subject, number, **more):
    (folder / subject).mkdir()
    content = {"subject": subject, "microbleeds": [{}] * number, "contrast": "swi", "notices": "n", **more}
    (folder / subject / f"{subject}_cmb.json").write_text(json.dumps(content))


def test_each_subject_of_the_run_has_a_row(tmp_path):
    results(tmp_path, "b", 0, warnings="The slices are thick.")
    results(tmp_path, "a", 3, warnings="")
    results(tmp_path, "of an earlier run", 9)
    results(tmp_path, "d", 2, warnings="")  # of an earlier run, and failed in this one
    engine = Engine(lambda *_: None)
    engine.register_events(*IterationEvents)
    engine.failures, engine.incomplete = {"d": "it is a mask"}, {"a": "no SEG"}
    table = CohortTable(tmp_path)
    table.attach(engine)
    engine.fire_event(Events.STARTED)
    engine.state.batch = [{"subject": "a"}]
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    table.recall(engine, "b")  # which an earlier run did, or a worker
    engine.fire_event(Events.COMPLETED)
    table = pd.read_csv(tmp_path / "subjects.csv", keep_default_na=False)
    assert table.to_numpy().tolist() == [
        ["a", "3", "swi", "", "n", "no SEG"],
        ["b", "0", "swi", "The slices are thick.", "n", ""],
        ["d", "", "", "", "", "it is a mask"],
    ]
    assert list(table) == ["subject", "microbleeds", "contrast", "warnings", "notices", "failure"]
