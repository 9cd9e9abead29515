"""MONAI's client of federated learning trains and evaluates each stage."""

import pandas as pd
import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from ..helpers import CONFIGS, TINY_CONFIG


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("federated") / "site"


@pytest.mark.parametrize("stage", ["detector", "classifier"])
def test_a_site_takes_part_in_two_rounds(stage, output, tiny_cohort, bundle, tmp_path):
    """Each round starts from the weights that the server sends, whatever the site has learned before."""
    if not (output / "detector_best.pt").exists():
        bundle("training_detector", ["train.json", TINY_CONFIG], tmp_path, dataset_dir=tiny_cohort, output_dir=output)
    overlay = {"detector": "federated.json", "classifier": "federated_classifier.json"}[stage]
    files = [str(CONFIGS / "train.json"), str(TINY_CONFIG), str(CONFIGS / overlay)]
    arguments = {"dataset_dir": str(tiny_cohort), "output_dir": str(output)}
    site = MonaiAlgo(
        bundle_root=str(CONFIGS.parent),
        config_train_filename=files,
        train_kwargs=arguments,
        config_evaluate_filename=files,
        eval_kwargs=arguments,
        best_model_filepath=str(output / f"{stage}_best.pt"),
        send_weight_diff=True,
    )
    site.initialize(extra={ExtraItems.CLIENT_NAME: "site"})

    sent = {name: tensor.clone() for name, tensor in site.trainer.network.state_dict().items()}
    for name, tensor in sent.items():
        if tensor.dim() >= 4:
            sent[name] = tensor * 0.5
    for number in (1, 2):
        rate = site.trainer.optimizer.param_groups[0]["lr"]
        site.train(ExchangeObject(weights=sent, weight_type=WeightType.WEIGHTS))
        assert site.trainer.state.epoch == number
        update = site.get_weights()
        assert update.weight_type == WeightType.WEIGHT_DIFF
        assert update.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == site.trainer.state.epoch_length
        changes = {name: float(tensor.abs().max()) for name, tensor in update.weights.items() if "weight" in name}
        # surroundings and profile of a candidate are not learned in rounds
        kept = [changes.pop(name) for name in list(changes) if name.startswith(("surroundings.", "profile."))]
        assert len(kept) == {"detector": 0, "classifier": 6}[stage]
        assert not any(kept)
        # AdamW and Adam take steps of the size of the learning rate, which is far below a change of weights by half
        assert all(0 < change <= 4 * rate * site.trainer.state.epoch_length for change in changes.values()), changes

    assert len(pd.read_csv(output / f"{stage}_log.csv")) == 2
    best = site.get_weights(extra={ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL}).weights
    assert best.keys() == sent.keys()
    metrics = site.evaluate(ExchangeObject(weights=best, weight_type=WeightType.WEIGHTS)).metrics
    evaluated = site.evaluator.network.state_dict()
    assert all(torch.equal(evaluated[name], tensor) for name, tensor in best.items())
    metric = {"detector": "mean_sensitivity", "classifier": "loss"}[stage]
    logged = pd.read_csv(output / f"{stage}_log.csv")[f"val_{metric}"]
    assert metrics[metric] == pytest.approx(logged.max() if stage == "detector" else logged.min(), rel=1e-5)
    site.finalize()
    if stage == "classifier":
        joined_at_one_site(output, tiny_cohort, bundle, tmp_path)


def joined_at_one_site(output, cohort, bundle, folder):
    """The command of the page: the server's weights stay, and what the rounds do not learn is fitted."""
    assert not (output / "model.pt").exists()
    bundle("training_join", ["train.json", TINY_CONFIG], folder, dataset_dir=cohort, output_dir=output)
    joined = torch.load(output / "model.pt", weights_only=True)
    for stage in ("detector", "classifier"):
        sent = torch.load(output / f"{stage}_best.pt", weights_only=True)
        assert all(torch.equal(joined[f"{stage}.{name}"], tensor) for name, tensor in sent.items())
    assert any(name.startswith("decision.") for name in joined)
    page = (CONFIGS.parents[1] / "docs" / "reference" / "zoo.md").read_text(encoding="utf-8")
    assert "run training_join --config_file cmb_bundle/configs/train.json" in page
