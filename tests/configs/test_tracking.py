"""``--tracking mlflow`` keeps the losses and scores of a training, where MLflow is installed."""

import sqlite3

import pandas as pd
import pytest

from ..helpers import TINY_CONFIG


def test_mlflow_gets_the_losses_of_the_table(tiny_cohort, bundle, tmp_path):
    pytest.importorskip("mlflow")
    output = tmp_path / "output"
    bundle(
        "training_detector", ["train.json", TINY_CONFIG], tmp_path, dataset_dir=tiny_cohort, output_dir=output,
        tracking="mlflow",
    )  # fmt: skip
    rows = sqlite3.connect(output / "mlruns.db").execute("select key, step, value from metrics").fetchall()
    assert {key for key, _, _ in rows} >= {"train_loss", "mean_sensitivity"}
    log = pd.read_csv(output / "detector_log.csv")
    scores = sorted((step, value) for key, step, value in rows if key == "mean_sensitivity")
    assert [value for _, value in scores] == pytest.approx(list(log["val_mean_sensitivity"]))
    tracked = pd.DataFrame([(step, value) for key, step, value in rows if key == "train_loss"])
    assert tracked[1].mean() == pytest.approx(log["loss"].mean(), rel=1e-5)
