"""Two processes train to the losses of one."""

import json
from types import SimpleNamespace

import ignite.distributed as idist
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, RandomSampler

from cmb_bundle.scripts.training.distributed import (
    DistributedBatchSampler,
    LossReweighting,
    SynchronisedBatchNorm,
    gather,
    indices_of_this_process,
    parallel,
    start_processes,
    synchronise_batch_norm,
)

from ..helpers import CONFIGS, TINY_CONFIG
from ..helpers.processes import run_ranks

CPU = torch.device("cpu")
SPLIT = (3, 4)


def small_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Conv2d(4, 3, 3)]
    return nn.Sequential(*layers, nn.BatchNorm2d(3, momentum=None), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def items():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(SPLIT), 2, 8, 9, generator=generator) * 3 + 1, torch.tensor([0, 2, 1, 1, 0, 2, 2])


def train_steps(network, images, labels, share_of_loss):
    loss_function = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 2.0]))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = loss_function(network(images), labels)
        output = {"image": images, "label": labels, "loss": loss}
        engine = SimpleNamespace(state=SimpleNamespace(output=output), loss_function=loss_function)
        share_of_loss.weigh(engine)
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        share_of_loss.average(engine)
        losses.append(output["loss"].item())
    return losses


def train_share(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images, labels = (tensor.split(SPLIT)[rank] for tensor in items())
    network = synchronise_batch_norm(small_network(), CPU)
    assert sum(isinstance(module, SynchronisedBatchNorm) for module in network.modules()) == 2
    losses = train_steps(parallel(network, CPU), images, labels, LossReweighting())
    indices = list(indices_of_this_process("abcde"))
    result = {"losses": losses, "weights": network.state_dict(), "gathered": gather(indices)}
    torch.save(result | {"evaluated": network.eval()(images)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_unequal_shares_learn_what_one_does(tmp_path):
    torch.multiprocessing.start_processes(train_share, (str(tmp_path),), nprocs=2, start_method="forkserver")
    network = small_network()
    expected = train_steps(network, *items(), LossReweighting())
    assert expected[2] < expected[0]
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for result in results:
        np.testing.assert_allclose(result["losses"], expected, rtol=1e-5)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(result["weights"][name], tensor, rtol=1e-4, atol=1e-6)
        assert result["gathered"] == [[0, 2, 4], [1, 3]]
    evaluated = torch.cat([result["evaluated"] for result in results])
    torch.testing.assert_close(evaluated, network.eval()(items()[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_process_alone_sums_nothing(size):
    replaced, ordinary = synchronise_batch_norm(small_network(), CPU), small_network()
    images = items()[0][: size + 1]
    torch.testing.assert_close(replaced(images), ordinary(images), rtol=0, atol=0)
    torch.testing.assert_close(replaced.state_dict(), ordinary.state_dict(), rtol=0, atol=0)


def shares_of(number, batch_size, processes, monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        sampler = DistributedBatchSampler(range(number), batch_size)
        sampler.sampler.generator = torch.Generator().manual_seed(5)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    return shares


@pytest.mark.parametrize(("number", "batch_size", "processes"), [(7, 2, 2), (12, 5, 3), (9, 4, 4), (6, 3, 1)])
def test_shares_make_up_the_batches_of_one_process(number, batch_size, processes, monkeypatch):
    shares = shares_of(number, batch_size, processes, monkeypatch)
    order = RandomSampler(range(number), generator=torch.Generator().manual_seed(5))
    for batch, *parts in zip(BatchSampler(order, batch_size, drop_last=False), *shares, strict=True):
        assert {item for part in parts for item in part} == set(batch)
        sizes = [len(part) for part in parts]
        assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
        if len(batch) >= processes:
            assert sum(sizes) == len(batch)
    if (number, batch_size) == (7, 2):
        assert shares[0][-1] == shares[1][-1], "a single item is everybody's"


def test_a_batch_smaller_than_the_number_of_processes_is_refused(monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match=r"A batch of 3 cannot be divided among 4 processes.*detector_batch_size"):
        DistributedBatchSampler(range(10), 3)


def test_without_torchrun_it_is_said_how_to_start():
    with pytest.raises(RuntimeError, match="torchrun --standalone --nproc_per_node=N"):
        start_processes(CPU)


@pytest.fixture(scope="module")
def exact_config(tmp_path_factory):
    """
    Without what two processes cannot have in common: dropout draws its masks in each. SGD, since Adam's steps have
    the size of the learning rate however small a gradient is, which makes much of the last bits.
    """
    path = tmp_path_factory.mktemp("distributed") / "exact.json"
    optimizer = {"_target_": "torch.optim.SGD", "momentum": 0.9}
    config = {
        "folds": 5,
        "classifier_batch_size": 7,
        "network_def#classifier#dropout": 0.0,
        "detector_optimizer": {**optimizer, "lr": 5e-4, "params": "$@network.detector.parameters()"},
        "classifier_optimizer": {**optimizer, "lr": 1e-3, "params": "$@network.classifier.parameters()"},
    }
    path.write_text(json.dumps(config))
    return path


def run_two(run_id, config, output, cohort, *arguments):
    files = [str(path) for path in (CONFIGS / "train.json", CONFIGS / "multi_gpu_train.json", TINY_CONFIG, config)]
    command = ["monai.bundle", "run", run_id, "--config_file", str(files), "--device", "$torch.device('cpu')"]
    command += ["--dataset_dir", str(cohort), "--output_dir", str(output), *arguments]
    done = run_ranks(command, output.parent, 2)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def test_two_processes_train_both_stages_to_the_losses_of_one(tiny_cohort, bundle, exact_config, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    bundle("training", ["train.json", TINY_CONFIG, exact_config], tmp_path, dataset_dir=tiny_cohort, output_dir=one)
    # in two parts, so that the second resumes
    run_two("training_detector", exact_config, two, tiny_cohort, "--detector_epochs", "1")
    assert list(pd.read_csv(two / "detector_log.csv")["epoch"]) == [1]
    done = run_two("training", exact_config, two, tiny_cohort)
    for words in ("after epoch 1", "with other values than before"):
        assert done.stdout.count(words) == 1, "the first process tells it, the others are silent"

    for name in ("detector_log.csv", "classifier_log.csv"):
        expected, found = pd.read_csv(one / name), pd.read_csv(two / name)
        assert len(expected) == 2
        # from the second epoch of stage 2 on, sums in another order have grown through its normalisation of few patches
        rounding = 1e-5 if name.startswith("detector") else 1e-3
        pd.testing.assert_frame_equal(found[:1], expected[:1], rtol=1e-5, check_exact=False)
        pd.testing.assert_frame_equal(found[1:][["epoch", "loss"]], expected[1:][["epoch", "loss"]], rtol=rounding)
    expected = torch.load(one / "model.pt", weights_only=True)
    found = torch.load(two / "model.pt", weights_only=True)
    # the third subject, alone in the second batch, is seen by both processes
    assert (expected.pop("detector.loss.seen"), found["detector.loss.seen"]) == (3 * 4, 4 * 4)
    for name, tensor in ((n, t) for n, t in expected.items() if n.startswith("detector.")):
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    writers = 2 * 2  # trainer and evaluator of both runs, of the first process alone
    assert len(list((two / "tensorboard" / "detector").iterdir())) == writers
