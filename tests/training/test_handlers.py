"""Training that is killed at any moment and goes on exactly, the best weights, seeds and the table of epochs."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Loss
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from cmb_bundle.scripts.errors import CheckpointError
from cmb_bundle.scripts.networks.weights import load_weights
from cmb_bundle.scripts.training import checkpoint, handlers
from cmb_bundle.scripts.training.checkpoint import TrainingCheckpoint
from cmb_bundle.scripts.training.handlers import EpochSeed, EpochTable

LOSS = torch.nn.CrossEntropyLoss()


class Killed(BaseException):
    """As a kill would, it passes every except Exception."""


def tiny_network(width=3):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, width, 3),
        torch.nn.BatchNorm2d(width),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(width * 16, 2),
    )


def tiny_training(folder, epochs, num_workers=0, optimizer=torch.optim.Adam, width=3, batch_size=4, interval=2, **more):
    """All objects of a training made anew, as in another process: 10 images, batches of 4, shuffled and augmented."""
    generator = np.random.default_rng(0)
    torch.manual_seed(7)
    data = [{"image": generator.normal(size=(1, 6, 6)).astype(np.float32), "label": n % 2} for n in range(10)]
    augment = Compose([RandFlipd("image", prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.7, std=0.5)])
    loader = DataLoader(Dataset(data, augment), batch_size=batch_size, shuffle=True, num_workers=num_workers)
    network = tiny_network(width)
    optimizer = optimizer(network.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    evaluator = SupervisedEvaluator(
        "cpu",
        DataLoader(Dataset(data), batch_size=5),
        network,
        key_val_metric={"loss": Loss(LOSS, output_transform=lambda x: (x["pred"], x["label"]))},
        decollate=False,
    )
    checkpoint = TrainingCheckpoint(
        folder,
        "tiny",
        network,
        {"optimizer": optimizer, "schedule": schedule},
        evaluator,
        metric="loss",
        lower_is_better=True,
        **more,
    )
    table = EpochTable(folder / "log.csv", evaluator, ["loss"], accuracy=True)
    trainer = SupervisedTrainer(
        "cpu",
        epochs,
        loader,
        network,
        optimizer,
        LOSS,
        train_handlers=[
            EpochSeed(loader, seed=3),
            ValidationHandler(interval, evaluator, epoch_level=True),
            LrScheduleHandler(schedule, print_lr=False),
            table,
            checkpoint,
        ],
        decollate=False,
    )
    return SimpleNamespace(trainer=trainer, network=network, checkpoint=checkpoint, folder=folder, loader=loader)


def files_of(folder):
    """What a training leaves: both states and the table."""
    return (
        torch.load(folder / "tiny_last.pt", weights_only=True),
        torch.load(folder / "tiny_best.pt", weights_only=True),
        (folder / "log.csv").read_text(),
    )


def assert_same(found, expected):
    """Bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


# ------------------------------------------------------------------------------------------------ exact resume


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """By number of workers, what a training of six epochs leaves that is not stopped."""
    left = {}
    for num_workers in (0, 1):
        folder = tmp_path_factory.mktemp("unbroken")
        tiny_training(folder, 6, num_workers).trainer.run()
        left[num_workers] = files_of(folder)
    return left


@pytest.mark.parametrize(("num_workers", "iteration"), [(0, 1), (0, 2), (0, 8), (0, 9), (1, 2), (1, 8)])
def test_killed_within_an_epoch(tmp_path, unbroken, num_workers, iteration):
    first = tiny_training(tmp_path, 6, num_workers)

    def kill(engine):
        raise Killed

    first.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iteration), kill)
    with pytest.raises(Killed):
        first.trainer.run()
    second = tiny_training(tmp_path, 6, num_workers)
    second.trainer.run()
    assert second.trainer.state.epoch == 6
    assert second.trainer.state.iteration == 18
    assert_same(files_of(tmp_path), unbroken[num_workers])


@pytest.mark.parametrize("name", ["log.csv", "tiny_best.pt", "tiny_last.pt"])
@pytest.mark.parametrize("half", [b"", b"half"])
def test_killed_while_a_file_is_written(tmp_path, unbroken, monkeypatch, name, half):
    write_whole = checkpoint.write_whole
    first = tiny_training(tmp_path, 6)

    def kill(aside):
        aside.write_bytes(half)
        raise Killed

    def write(path, content):
        # in the best epoch, where all three files are written
        now = first.trainer.state.epoch == unbroken[0][0]["best_epoch"]
        return write_whole(path, kill if now and path.name == name else content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", write)
        patch.setattr(handlers, "write_csv", lambda p, t: write(p, lambda aside: t.to_csv(aside, index=False)))
        with pytest.raises(Killed):
            first.trainer.run()
    tiny_training(tmp_path, 6).trainer.run()
    assert_same(files_of(tmp_path), unbroken[0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_stopped_between_two_trainings(tmp_path, unbroken, num_workers):
    tiny_training(tmp_path, 2, num_workers).trainer.run()
    assert torch.load(tmp_path / "tiny_last.pt", weights_only=True)["epoch"] == 2
    for epochs in (3, 6, 6):
        tiny_training(tmp_path, epochs, num_workers).trainer.run()
    assert_same(files_of(tmp_path), unbroken[num_workers])


def test_other_start_and_generators_do_not_matter_after_a_resume(tmp_path, unbroken):
    tiny_training(tmp_path, 3).trainer.run()
    second = tiny_training(tmp_path, 6)
    torch.nn.init.zeros_(second.network[-1].weight)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second.trainer.run()
    assert_same(files_of(tmp_path), unbroken[0])


def test_training_depends_on_its_random_parts(tmp_path, unbroken):
    # otherwise the comparisons above would compare nothing
    other = tiny_training(tmp_path, 6)
    other.trainer.add_event_handler(Events.EPOCH_STARTED(once=6), lambda _: torch.manual_seed(1))
    other.trainer.run()
    log, expected = (tmp_path / "log.csv").read_text().splitlines(), unbroken[0][2].splitlines()
    assert log[:6] == expected[:6]
    assert log[6] != expected[6]


def test_resume_false_starts_anew(tmp_path):
    tiny_training(tmp_path, 4).trainer.run()
    one = tiny_training(tmp_path, 1, interval=1, resume=False)
    one.trainer.run()
    last, best, log = files_of(tmp_path)
    assert last["epoch"] == last["best_epoch"] == 1
    assert_same(best, last["network"])
    assert len(log.splitlines()) == 2


def test_another_batch_size_still_gives_whole_epochs(tmp_path):
    tiny_training(tmp_path, 2).trainer.run()
    second = tiny_training(tmp_path, 3, batch_size=1)
    iterations = []
    second.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: iterations.append(e.state.iteration))
    second.trainer.run()
    assert iterations == list(range(21, 31))


def test_scale_of_mixed_precision_is_resumed(tmp_path):
    class Scaler:
        """As torch.amp.GradScaler on a GPU."""

        def __init__(self, scale):
            self.scale = scale

        def state_dict(self):
            return {"scale": self.scale}

        def load_state_dict(self, state):
            self.scale = state["scale"]

    first = tiny_training(tmp_path, 1)
    first.trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: setattr(e, "scaler", Scaler(128.0)))
    first.trainer.run()
    checkpoint = tiny_training(tmp_path, 2).checkpoint
    engine = SimpleNamespace(state=SimpleNamespace(epoch_length=3), scaler=Scaler(65536.0))
    checkpoint.start(engine)
    assert engine.scaler.scale == 128.0
    assert (engine.state.epoch, engine.state.iteration) == (1, 3)
    # on a machine without mixed precision the scale is not needed
    engine.scaler = None
    checkpoint.start(engine)


# -------------------------------------------------------------------------------------------- best and patience


def scripted(folder, scores, epochs=None, interval=1, **more):
    """A training whose validations have these scores; its one weight is the number of the epoch."""
    network = torch.nn.Linear(1, 1, bias=False)
    evaluator, trainer = Engine(lambda e, b: None), Engine(lambda e, b: None)
    trainer.scaler = None
    left = iter(scores)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def score(engine):
        engine.state.metrics["score"] = next(left)

    @trainer.on(Events.EPOCH_COMPLETED)
    def learn(engine):
        torch.nn.init.constant_(network.weight, engine.state.epoch)

    @trainer.on(Events.EPOCH_COMPLETED(every=interval))
    def validate(engine):
        evaluator.run([0])

    checkpoint = TrainingCheckpoint(folder, "tiny", network, {}, evaluator, metric="score", **more)
    checkpoint.attach(trainer)
    trainer.run([0, 0], max_epochs=epochs or len(scores))
    best = folder / "tiny_best.pt"
    weight = torch.load(best, weights_only=True)["weight"].item() if best.is_file() else None
    return trainer.state.epoch, weight, checkpoint


@pytest.mark.parametrize(
    ("lower", "scores", "best"),
    [
        (False, [0.1, 0.5, 0.3], 2),
        (False, [0.5, 0.5, 0.2], 1),
        (True, [0.9, 0.2, 0.4], 2),
        (True, [0.2, 0.3, 0.2], 1),
        (False, [float("nan"), -2.0, -3.0], 2),
        (True, [3.0, float("nan"), float("nan")], 1),
        (False, [0.0, 0.0], 1),
    ],
)
def test_best_epoch_by_its_metric(tmp_path, lower, scores, best):
    _, weight, checkpoint = scripted(tmp_path, scores, lower_is_better=lower)
    assert weight == checkpoint.best_epoch == best
    assert checkpoint.best_score == (-1 if lower else 1) * scores[best - 1]


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([5, 4, 3, 2, 1, 0], 0, 6),
        ([5, 4, 3, 2, 1, 0], 2, 3),
        ([1, 2, 1, 3, 2, 2], 2, 6),
        ([1, 2, 1, 1, 9, 9], 2, 4),
        ([float("nan")] * 6, 3, 3),
    ],
)
def test_patience(tmp_path, scores, patience, stops):
    assert scripted(tmp_path, scores, patience=patience)[0] == stops
    # and once more: a training that ended by its patience has ended
    assert scripted(tmp_path, scores, patience=patience)[0] == stops


def test_patience_counts_at_validations(tmp_path):
    # validated at 3, 6, 9, 12; nothing better after 6
    epoch, weight, _ = scripted(tmp_path, [1, 2, 0, 0], epochs=12, interval=3, patience=4)
    assert (epoch, weight) == (12, 6)


def test_patience_shorter_than_the_interval_waits_for_a_validation(tmp_path):
    epoch, weight, _ = scripted(tmp_path, [1, 2, 0, 0], epochs=12, interval=3, patience=1)
    assert (epoch, weight) == (9, 6)


def test_resume_between_validations_does_not_stop_early(tmp_path):
    # stopped after epoch 5, two after the best and one before the next validation
    scripted(tmp_path, [1], epochs=5, interval=3, patience=2)
    epoch, weight, _ = scripted(tmp_path, [2, 0, 0], epochs=12, interval=3, patience=2)
    assert (epoch, weight) == (9, 6)


def test_best_is_remembered_over_a_resume(tmp_path):
    scripted(tmp_path, [5, 1], epochs=2)
    _, weight, checkpoint = scripted(tmp_path, [4, 3], epochs=4)
    assert weight == checkpoint.best_epoch == 1
    _, weight, checkpoint = scripted(tmp_path, [6], epochs=5)
    assert weight == checkpoint.best_epoch == 5


def test_states_are_saved_as_seldom_as_asked(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "cmb_bundle.scripts.training.checkpoint.write_whole", lambda path, write: saved.append(path.stem)
    )
    scripted(tmp_path, [5, 6, 1, 1, 7, 1, 1], save_interval=3)
    best, last = "tiny_best", "tiny_last"
    # epochs 1, 2 and 5 are the best so far, 3 and 6 have their turn, 7 is the last
    assert saved == [best, last, best, last, last, best, last, last, last]
    saved.clear()
    scripted(tmp_path, [5, 1, 1, 1, 1, 1], save_interval=10, patience=2)
    assert saved == [best, last, last], "the first and the one at which patience ends"


def test_training_too_short_for_a_validation_keeps_its_last_weights(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert scripted(tmp_path, [], epochs=3, interval=5)[1] == 3
    assert "no epoch was scored" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert scripted(tmp_path, [7, 1], epochs=10, interval=5)[1] == 5
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_without_a_validation_the_last_epoch_is_the_best(tmp_path):
    trainer, network = Engine(lambda e, b: None), torch.nn.Linear(1, 1, bias=False)
    trainer.scaler = None
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda e: torch.nn.init.constant_(network.weight, e.state.epoch))
    TrainingCheckpoint(tmp_path, "tiny", network, {}, patience=1).attach(trainer)
    trainer.run([0], max_epochs=3)
    assert torch.load(tmp_path / "tiny_best.pt", weights_only=True)["weight"].item() == 3


# ------------------------------------------------------------------------------------------------------ errors


def test_weights_are_loaded(tmp_path):
    source, network = tiny_network(), tiny_network()
    torch.save(source.state_dict(), tmp_path / "model.pt")
    assert load_weights(network, tmp_path / "model.pt") is network
    assert_same(dict(network.state_dict()), dict(source.state_dict()))


def test_missing_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.pt do not exist\. Train first"):
        load_weights(tiny_network(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04 cut off"],
    ids=["empty", "lfs", "cut"],
)
def test_unreadable_weights(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt cannot be read \(.*\)\. Expected a PyTorch state_dict"):
        load_weights(tiny_network(), tmp_path / "model.pt")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)])
def test_file_of_something_else(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    name = type(content).__name__
    with pytest.raises(CheckpointError, match=rf"model\.pt holds a {name}\. Expected a PyTorch state_dict"):
        load_weights(tiny_network(), tmp_path / "model.pt")


def test_weights_of_other_shapes(tmp_path):
    torch.save(tiny_network(width=4).state_dict(), tmp_path / "model.pt")
    network = tiny_network()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_weights(network, tmp_path / "model.pt")
    assert str(tmp_path / "model.pt") in str(error.value)
    assert "0 tensors are missing, 0 unknown, 7 of another shape" in str(error.value)
    assert "for example 0.weight: found (4, 1, 3, 3), expected (3, 1, 3, 3)" in str(error.value)
    assert_same(dict(network.state_dict()), before)


def test_weights_of_other_layers(tmp_path):
    state = tiny_network().state_dict()
    state["head.weight"] = state.pop("4.weight")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="1 tensors are missing, 1 unknown, 0 of another shape") as error:
        load_weights(tiny_network(), tmp_path / "model.pt")
    assert "4.weight: found nothing, expected (2, 48)" in str(error.value)


def test_unreadable_state_of_a_training(tmp_path):
    (tmp_path / "tiny_last.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(CheckpointError, match=r"tiny_last\.pt cannot be read .*resume=False to start again"):
        tiny_training(tmp_path, 1).trainer.run()
    tiny_training(tmp_path, 1, resume=False).trainer.run()
    assert torch.load(tmp_path / "tiny_last.pt", weights_only=True)["epoch"] == 1


def test_state_of_another_network(tmp_path):
    tiny_training(tmp_path, 1).trainer.run()
    with pytest.raises(
        CheckpointError, match=r"tiny_last\.pt is of another architecture.*0\.weight.*another output_dir"
    ):
        tiny_training(tmp_path, 2, width=4).trainer.run()


def test_state_of_another_optimizer(tmp_path):
    tiny_training(tmp_path, 1).trainer.run()
    with pytest.raises(CheckpointError, match=r"tiny_last\.pt holds .*'Adam'.*expected .*'SGD'.*another output_dir"):
        tiny_training(tmp_path, 2, optimizer=torch.optim.SGD).trainer.run()


def test_weights_in_place_of_a_state(tmp_path):
    torch.save(tiny_network().state_dict(), tmp_path / "tiny_last.pt")
    with pytest.raises(CheckpointError, match=r"tiny_last\.pt holds None; expected .*'Adam'"):
        tiny_training(tmp_path, 1).trainer.run()


# ------------------------------------------------------------------------------------------------ seeds and table


@pytest.mark.parametrize("num_workers", [0, 1])
def test_epochs_differ_and_can_be_repeated_alone(num_workers):
    data = [{"image": np.zeros((1, 4, 4), dtype=np.float32)} for _ in range(6)]
    noise = Compose([RandGaussianNoised("image", prob=1.0)])

    def draw(epoch, seed=0):
        loader = DataLoader(Dataset(data, noise), batch_size=2, shuffle=True, num_workers=num_workers)
        EpochSeed(loader, seed)(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
        images = torch.cat([batch["image"] for batch in loader])
        return torch.cat([images.flatten(), torch.rand(3), torch.as_tensor(np.random.rand(3))])  # noqa: NPY002

    assert torch.equal(draw(2), draw(2))
    draws = [draw(1), draw(2), draw(1, seed=1), draw(2, seed=1)]
    for number, one in enumerate(draws):
        assert len(one.unique()) == len(one)
        assert not any(torch.isclose(one, other).any() for other in draws[:number])


def test_table_of_epochs(tmp_path):
    losses = iter([1.0, 2.0, 3.0, 5.0, 7.0, 9.0])
    right = iter([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [1, 1]])

    def step(engine, batch):
        label = torch.tensor(next(right))
        return {"loss": torch.tensor(next(losses)), "pred": torch.tensor([[0.0, 1.0]] * 2), "label": label}

    trainer, evaluator = Engine(step), Engine(lambda e, b: None)
    evaluator.add_event_handler(Events.STARTED, lambda e: e.state.metrics.update(loss=0.25, froc=0.5))
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda _: evaluator.run([0]))
    EpochTable(tmp_path / "log.csv", evaluator, ["loss", "froc"], accuracy=True).attach(trainer)
    trainer.run([0, 0], max_epochs=3)
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        "epoch,loss,accuracy,val_loss,val_froc",
        "1,1.5,0.75,,",
        "2,4.0,0.25,0.25,0.5",
        "3,8.0,1.0,,",
    ]


def test_lines_of_epochs_done_anew_are_replaced(tmp_path):
    pd.DataFrame({"epoch": [1, 2, 3, 4], "loss": [0.1, 0.2, 0.3, 0.4]}).to_csv(tmp_path / "log.csv", index=False)
    trainer = Engine(lambda e, b: {"loss": torch.tensor(9.0)})
    trainer.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", 2))
    EpochTable(tmp_path / "log.csv").attach(trainer)
    trainer.run([0], max_epochs=3)
    assert (tmp_path / "log.csv").read_text().splitlines() == ["epoch,loss", "1,0.1", "2,0.2", "3,9.0"]
    trainer = Engine(lambda e, b: {"loss": torch.tensor(8.0)})
    EpochTable(tmp_path / "log.csv").attach(trainer)
    trainer.run([0], max_epochs=1)
    assert (tmp_path / "log.csv").read_text().splitlines() == ["epoch,loss", "1,8.0"]


@pytest.mark.parametrize(
    ("output", "shown"), [({"loss": torch.tensor(0.5)}, {"loss": 0.5}), ([{"pred": 1}], {}), (None, {}), ({}, {})]
)
def test_progress_shows_the_loss_where_there_is_one(output, shown):
    assert handlers.Progress.loss(output) == shown


def test_progress_bar_is_attached(capsys):
    engine = Engine(lambda e, b: {"loss": torch.tensor(0.5)})
    handlers.Progress("Stage 1").attach(engine)
    engine.run([0, 0], max_epochs=1)
    shown = capsys.readouterr().err
    assert "Stage 1" in shown
    assert "loss=0.5" in shown


def dataset_of(*subjects, failures=()):
    return SimpleNamespace(data=[{"subject": name} for name in subjects], failures=dict.fromkeys(failures, "bad"))


def started(checkpoint, epoch_length=1):
    engine = Engine(lambda engine, batch: None)
    engine.scaler = None
    engine.state.epoch_length = epoch_length
    checkpoint.start(engine)
    return engine


def checkpoint_of(tmp_path, lr=0.1, longest=10, **kwargs):
    """A checkpoint of a new network with AdamW and a cosine schedule."""
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=longest)
    return TrainingCheckpoint(tmp_path, "net", network, {"optimizer": optimizer, "lr_scheduler": schedule}, **kwargs)


def saved_after(tmp_path, epochs, **kwargs):
    """Save the state after some epochs."""
    checkpoint = checkpoint_of(tmp_path, **kwargs)
    engine = started(checkpoint)
    for epoch in range(1, epochs + 1):
        checkpoint.states["optimizer"].step()
        checkpoint.states["lr_scheduler"].step()
        engine.state.epoch = epoch
        checkpoint.save(engine)


@pytest.mark.parametrize("lr, longest", [(0.1, 10), (0.1, 20), (0.02, 10)])
def test_resumed_schedule_is_the_one_configured_now(tmp_path, lr, longest):
    saved_after(tmp_path, 4)
    checkpoint = checkpoint_of(tmp_path, lr, longest)
    assert started(checkpoint).state.epoch == 4
    expected = lr * (1 + math.cos(math.pi * 4 / longest)) / 2
    assert checkpoint.states["optimizer"].param_groups[0]["lr"] == pytest.approx(expected)
    assert checkpoint.states["lr_scheduler"].last_epoch == 4


@pytest.mark.parametrize("train, validate, gone", [("bd", "c", "a"), ("ab", "d", "c")])
def test_training_is_not_resumed_with_its_subjects_in_the_test_fold(tmp_path, train, validate, gone):
    saved_after(tmp_path, 1, datasets=[dataset_of("a", "b"), dataset_of("c")])
    checkpoint = checkpoint_of(tmp_path, datasets=[dataset_of(*train), dataset_of(*validate)])
    with pytest.raises(CheckpointError, match=f"net_last.pt was trained or validated on {gone}, not in the training"):
        started(checkpoint)


def test_training_is_resumed_when_a_subject_cannot_be_read_any_more_or_is_new(tmp_path):
    saved_after(tmp_path, 2, datasets=[dataset_of("a", "b"), dataset_of("c")])
    datasets = [dataset_of("b", "new", failures=["a"]), dataset_of("c")]
    assert started(checkpoint_of(tmp_path, datasets=datasets)).state.epoch == 2


def test_stage_2_starts_anew_when_stage_1_has_changed(tmp_path, caplog):
    stage_1 = tmp_path / "detector_best.pt"
    stage_1.write_bytes(b"first")
    saved_after(tmp_path, 3, depends_on=stage_1)
    assert started(checkpoint_of(tmp_path, depends_on=stage_1)).state.epoch == 3
    stage_1.write_bytes(b"second")
    assert started(checkpoint_of(tmp_path, depends_on=stage_1)).state.epoch == 0
    assert "detector_best.pt has changed" in caplog.text
