"""How stages are fed and joined, and a cohort of which some subjects fail."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Transform
from monai.utils import ensure_tuple_rep

from cmb_bundle.scripts.data.datasets import SubjectDataset
from cmb_bundle.scripts.detection.yolov2 import YOLOv2Detector
from cmb_bundle.scripts.errors import CheckpointError, CohortError, SubjectError, TrainingError
from cmb_bundle.scripts.inference.evaluator import CohortEvaluator, collate_subject, prepare_volume, raise_failures
from cmb_bundle.scripts.inference.findings import Findingsd
from cmb_bundle.scripts.inference.inferers import TwoStageInferer
from cmb_bundle.scripts.inference.writers import SubjectWriter
from cmb_bundle.scripts.networks.classifier import PatchClassifier
from cmb_bundle.scripts.networks.two_stage import TwoStageNetwork
from cmb_bundle.scripts.networks.yolov2 import YOLOv2Network
from cmb_bundle.scripts.report.handlers import EvaluationReport
from cmb_bundle.scripts.training.completion import finish_training, join_weights
from cmb_bundle.scripts.training.patches import PatchCollector
from cmb_bundle.scripts.training.trainer import collate_slices, prepare_slices, sum_of_losses

from ..helpers.configuration import configuration

# -------------------------------------------------------------------------------------------- batches of stage 1


def one_slice(number, boxes):
    return {
        "image": torch.full((2, 4, 6), float(number)),
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
    }


def test_slices_of_several_subjects_are_one_batch():
    first = [one_slice(1, [[0, 0, 2, 2]]), one_slice(2, [])]
    batch = collate_slices([first, [one_slice(3, [[1, 1, 3, 3], [2, 0, 4, 5]])]])
    assert batch["image"].shape == (3, 2, 4, 6)
    assert batch["image"][:, 0, 0, 0].tolist() == [1, 2, 3]
    assert [t["boxes"].tolist() for t in batch["targets"]] == [[[0, 0, 2, 2]], [], [[1, 1, 3, 3], [2, 0, 4, 5]]]
    assert [t["labels"].tolist() for t in batch["targets"]] == [[0], [], [0, 0]]

    images, targets, arguments, keywords = prepare_slices(batch, device="cpu")
    assert torch.equal(images, batch["image"])
    assert arguments == (targets,)
    assert keywords == {}
    assert [list(t) for t in targets] == [["boxes", "labels"]] * 3


def test_a_step_of_training_reaches_the_detector_with_its_targets():
    class Detector(torch.nn.Module):
        def forward(self, images, targets):
            return {"a": images.mean(), "b": torch.tensor(float(sum(len(t["boxes"]) for t in targets)))}

    images, targets, arguments, keywords = prepare_slices(collate_slices([[one_slice(5, [[0, 0, 2, 2]] * 3)]]))
    losses = SimpleInferer()(images, Detector(), *arguments, **keywords)
    assert sum_of_losses(losses, targets).item() == 8.0


def test_volume_and_lesions_of_a_subject():
    image, lesions = torch.zeros(1, 2, 3, 3, 3), torch.ones(1, 2, 3)
    assert prepare_volume({"image": image, "lesions_ras": lesions})[1] is lesions
    assert prepare_volume({"image": image})[1] is None


# ------------------------------------------------------------------------------------------- patches of stage 2

AFFINE = np.array([[0.8, 0, 0, -12.0], [0, 0.8, 0, 4.0], [0, 0, 2.0, -9.0], [0, 0, 0, 1.0]])
SHAPE = (60, 50, 20)


class Planned(torch.nn.Module):
    """A detector that gives the boxes that ``plan`` holds, a list of (i, j, score) for each slice k."""

    def __init__(self, plan=()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.plan, self.k = dict(plan), 0

    def forward(self, images):
        found = []
        for _ in images:
            rows = self.plan.get(self.k % SHAPE[2], [])
            self.k += 1
            boxes = [[i - 2, j - 2, i + 3, j + 3] for i, j, _ in rows]
            scores = torch.tensor([score for *_, score in rows])
            found.append({"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "scores": scores})
        return found


def planned_network(folder, plan):
    """Both stages, and a file with the detector's weights; the network's own are other ones."""
    network = torch.nn.Module()
    network.detector, network.classifier = Planned(plan), torch.nn.Identity()
    torch.save({"weight": torch.ones(1)}, folder / "detector_best.pt")
    return network


def coded_volume(head=None):
    """A volume whose SWI tells the voxel, in a head (all of it by default), and whose phase is 0.5."""
    i, j, k = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    swi = torch.as_tensor(1 + i + 100 * j + 10000 * k, dtype=torch.float32)
    if head is not None:
        swi = swi * torch.as_tensor(head)
    return MetaTensor(torch.stack([swi, torch.full(SHAPE, 0.5)]), affine=torch.as_tensor(AFFINE))


def ras(*voxels):
    return torch.as_tensor(np.array(voxels, dtype=float).reshape(-1, 3) @ AFFINE[:3, :3].T + AFFINE[:3, 3])


def collect(tmp_path, plan, subjects, **more):
    inferer = TwoStageInferer((0.8, 0.8, 2.0), average=1, merge_mm=2.0)
    network = planned_network(tmp_path, plan)
    of_call = {name: more.pop(name) for name in ("seed", "need_both") if name in more}
    patches = PatchCollector(network, tmp_path / "detector_best.pt", inferer, **more)(subjects, **of_call)
    assert network.detector.weight.item() == 1
    assert not network.training
    return patches


def centre(patch):
    """The voxel that a patch of the coded volume was cut around."""
    value = int(patch["image"][(0, *[patch["image"].shape[1] // 2] * 3)]) - 1
    return [value % 100, value // 100 % 100, value // 10000]


def test_candidates_are_labelled_by_their_distance(tmp_path):
    lesions = ras((20, 20, 8), (45, 40, 14))
    plan = {
        8: [(23, 20, 0.9), (20, 25, 0.8), (13, 20, 0.7), (20, 40, 0.6)],  # 2.4, 4, 5.6 and 16 mm away
        9: [(18, 19, 0.3)],  # 2.7 mm away
        11: [(45, 40, 0.5)],  # 6 mm below the second lesion
    }
    data = [{"image": coded_volume(), "subject": "s0", "lesions_ras": lesions}]
    patches = collect(tmp_path, plan, data, random_negatives=0)
    found = [(p["source"], p["label"], centre(p)) for p in patches]
    assert found == [
        ("candidate", 1, [23, 20, 8]),
        ("candidate", 1, [18, 19, 9]),
        ("candidate", 0, [13, 20, 8]),
        ("candidate", 0, [20, 40, 8]),
        ("candidate", 0, [45, 40, 11]),
        ("lesion", 1, [20, 20, 8]),
        ("lesion", 1, [45, 40, 14]),
    ]
    assert [p["detector_score"] for p in patches[:5]] == pytest.approx([0.9, 0.3, 0.7, 0.6, 0.5])
    assert all(np.isnan(p["detector_score"]) for p in patches[5:])
    assert {p["subject"] for p in patches} == {"s0"}
    assert {tuple(p["image"].shape) for p in patches} == {(2, 20, 20, 20)}
    assert all(type(p["image"]) is torch.Tensor and p["image"].dtype == torch.float32 for p in patches)


def test_other_distances_and_sizes(tmp_path):
    plan = {8: [(25, 20, 0.8), (13, 20, 0.7)]}  # 4 and 5.6 mm away
    data = [{"image": coded_volume(), "subject": "s0", "lesions_ras": ras((20, 20, 8))}]
    patches = collect(tmp_path, plan, data, match_mm=4.5, ignore_mm=5.7, margin=0, random_negatives=3)
    assert [p["label"] for p in patches if p["source"] == "candidate"] == [1]
    assert {tuple(p["image"].shape) for p in patches} == {(2, 16, 16, 16)}


def test_the_margin_may_be_another_along_each_axis(tmp_path):
    data = [{"image": coded_volume(), "subject": "s0", "lesions_ras": ras((30, 25, 8))}]
    (patch,) = collect(tmp_path, {}, data, margin=(3, 1, -6), random_negatives=0, need_both=False)
    assert torch.equal(patch["image"], data[0]["image"].as_tensor()[:, 19:41, 16:34, 6:10])


@pytest.mark.parametrize(
    ("overlays", "options", "expected"),
    [
        ([], {}, [0, 0, 0]),
        (["keras.json"], {}, [8, 8, 3]),
        ([], {"surroundings_size": [24, 24, 8]}, [11, 11, 2]),
        ([], {"surroundings_size": [32, 32, 8]}, [7, 7, 2]),
        ([], {"patch_size": [32, 32, 12], "surroundings_size": [60, 60, 14]}, [0, 0, 2]),
    ],
)
def test_no_part_of_a_turned_patch_is_outside(overlays, options, expected):
    parser = configuration(*overlays)
    parser.update(options)
    assert parser.get_parsed_content("patch_margin") == expected
    edges = ensure_tuple_rep(parser.get_parsed_content("surroundings_size"), 3)
    ones = torch.ones(1, *(edge + 2 * more for edge, more in zip(edges, expected, strict=True)))
    turn = parser.get_parsed_content("classifier_augmentation#0")
    turn.set_random_state(1)
    cut = [turn({"image": ones})["image"] for _ in range(200)]
    assert {tuple(patch.shape[1:]) for patch in cut} == {ensure_tuple_rep(parser.get_parsed_content("patch_size"), 3)}
    assert min(float(patch.min()) for patch in cut) > 0.999


def test_patch_holds_what_is_around_it(tmp_path):
    data = [{"image": coded_volume(), "subject": "s0", "lesions_ras": ras((30, 25, 18))}]
    patches = collect(tmp_path, {8: [(2, 45, 0.9)]}, data, random_negatives=0)
    volume = data[0]["image"].as_tensor()
    beside, lesion = (p["image"] for p in patches)
    assert torch.equal(lesion[:, :, :, :12], volume[:, 20:40, 15:35, 8:20])
    assert not lesion[:, :, :, 12:].any()
    assert torch.equal(beside[:, 8:, :15, 2:], volume[:, :12, 35:, :18])
    assert not beside[:, :8].any()
    assert not beside[:, :, 15:].any()


def test_random_places_are_in_the_head_and_away_from_lesions(tmp_path):
    head = np.zeros(SHAPE)
    head[10:40, 12:40, 3:17] = 1
    lesions = ras((25, 25, 10))
    data = [{"image": coded_volume(head), "subject": "s0", "lesions_ras": lesions}]
    patches = collect(tmp_path, {}, data, random_negatives=400, ignore_mm=9.0)
    drawn = [p for p in patches if p["source"] == "random"]
    voxels = np.array([centre(p) for p in drawn])
    assert all(p["label"] == 0 for p in drawn)
    assert (head[tuple(voxels.T)] == 1).all()
    apart = np.linalg.norm(ras(*voxels) - lesions, axis=1)
    assert apart.min() > 9.0
    # a place in five is too near; those are left out, not moved
    share = np.mean(np.linalg.norm(ras(*np.argwhere(head)) - lesions, axis=1) > 9.0)
    assert 0.5 < share < 0.9
    assert len(drawn) / 400 == pytest.approx(share, abs=0.08)
    assert len(np.unique(voxels, axis=0)) > 0.9 * len(voxels)


def test_random_places_follow_the_seed(tmp_path):
    data = [{"image": coded_volume(), "subject": "s0", "lesions_ras": ras((20, 20, 8))}]
    draws = [[centre(p) for p in collect(tmp_path, {}, data, seed=seed)] for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_hard_negatives_are_the_best_of_each_subject(tmp_path):
    plan = {3: [(5, 5, 0.2), (5, 45, 0.9), (30, 5, 0.5)], 8: [(20, 20, 0.3)]}
    subjects = [
        {"image": coded_volume(), "subject": name, "lesions_ras": lesions}
        for name, lesions in (("s0", ras((20, 20, 8))), ("s1", ras()))
    ]
    patches = collect(tmp_path, plan, subjects, random_negatives=0, hard_negatives=2)
    found = [(p["subject"], p["label"], centre(p)) for p in patches]
    assert found == [
        ("s0", 1, [20, 20, 8]),
        ("s0", 0, [5, 45, 3]),
        ("s0", 0, [30, 5, 3]),
        ("s0", 1, [20, 20, 8]),
        ("s1", 0, [5, 45, 3]),
        ("s1", 0, [30, 5, 3]),
    ]


@pytest.mark.parametrize(
    ("lesions", "random", "message"),
    [
        (ras(), 5, r"of 5 patches, 0 are of microbleeds"),
        (ras((20, 20, 8)), 0, r"of 1 patches, 1 are of microbleeds"),
        (ras(), 0, r"of 0 patches, 0 are of microbleeds"),
    ],
)
def test_one_kind_of_patch_is_not_enough(tmp_path, lesions, random, message):
    data = [{"image": coded_volume(), "subject": "s0", "lesions_ras": lesions}]
    with pytest.raises(TrainingError, match=message + r".*train stage 1 for longer"):
        collect(tmp_path, {}, data, random_negatives=random)


def test_missing_weights_of_stage_1(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt do not exist"):
        PatchCollector(planned_network(tmp_path, {}), tmp_path / "nowhere.pt", TwoStageInferer((1, 1, 1)))([])


def test_best_weights_of_both_stages_are_joined(tmp_path):
    def network(seed):
        torch.manual_seed(seed)
        backbone = YOLOv2Network(in_channels=2, num_anchors=1, width=0.125, stages=[[[3, 32]], [[3, 64]]])
        return TwoStageNetwork(YOLOv2Detector(backbone, [[1.0, 1.0]]), PatchClassifier(width=0.125))

    best = network(1)
    torch.save(best.detector.state_dict(), tmp_path / "detector_best.pt")
    torch.save(best.classifier.state_dict(), tmp_path / "classifier_best.pt")
    path = join_weights(
        network(2), tmp_path / "detector_best.pt", tmp_path / "classifier_best.pt", tmp_path / "out" / "model.pt"
    )
    assert path == tmp_path / "out" / "model.pt"
    joined = torch.load(path, weights_only=True)
    assert list(joined) == list(best.state_dict())
    assert all(torch.equal(joined[name], tensor) for name, tensor in best.state_dict().items())
    network(3).load_state_dict(joined)
    with pytest.raises(CheckpointError, match=r"nothing\.pt do not exist"):
        join_weights(network(2), tmp_path / "detector_best.pt", tmp_path / "nothing.pt", tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_joined_weights_are_calibrated_on_the_validation_patches(tmp_path):
    torch.manual_seed(0)
    backbone = YOLOv2Network(in_channels=2, num_anchors=1, width=0.125, stages=[[[3, 32]], [[3, 64]]])
    network = TwoStageNetwork(YOLOv2Detector(backbone, [[1.0, 1.0]]), PatchClassifier(width=0.125))
    torch.save(network.detector.state_dict(), tmp_path / "detector_best.pt")
    torch.save(network.classifier.state_dict(), tmp_path / "classifier_best.pt")
    # one microbleed in ten, whatever the patch: the probability must fall to about a tenth
    batch = {"image": torch.rand(40, 1, 16, 32, 16), "label": torch.arange(40) % 10 == 0, "source": ["candidate"] * 40}
    batch["label"] = batch["label"].long()
    paths = tmp_path / "detector_best.pt", tmp_path / "classifier_best.pt", tmp_path / "model.pt"
    network.load_state_dict(torch.load(join_weights(network, *paths, data_loader=[batch]), weights_only=True))
    with torch.no_grad():
        probability = network.classifier.eval()(batch["image"]).softmax(dim=1)[:, 1]
    # Platt's smoothed share: 5 / 6 for the 4 and 1 / 38 for the 36
    assert float(probability.mean()) == pytest.approx((4 * 5 / 6 + 36 / 38) / 40, abs=1e-3)
    best = torch.load(tmp_path / "classifier_best.pt", weights_only=True)
    changed = [name for name, tensor in network.classifier.state_dict().items() if not torch.equal(tensor, best[name])]
    assert changed == ["head.6.weight", "head.6.bias"]


# ------------------------------------------------------------------------------------ a cohort of which some fail


class Read(Transform):
    """Stand-in for the preprocessing: a grid of 1 mm with lesions where the subject says, each a dark voxel."""

    def __call__(self, data):
        if data["subject"] == "unreadable":
            raise SubjectError("unreadable: the SWI swi.nii does not exist. Check the path.")
        image = torch.full((2, 30, 30, 12), 0.5)
        for voxel in data["dark"]:
            image[(0, *voxel)] = 0.0
        affine = np.eye(4)
        meta = {"original_affine": affine, "spatial_shape": np.array([30, 30, 12])}
        d = {
            "subject": data["subject"],
            "notices": "",
            "image": MetaTensor(image, affine=torch.eye(4, dtype=torch.float64)),
            "swi": MetaTensor(image[:1].clone(), affine=torch.eye(4, dtype=torch.float64), meta=meta),
        }
        if data.get("lesions") is not None:
            d["lesions_ras"] = torch.tensor(data["lesions"], dtype=torch.float64).reshape(-1, 3)
        return d


class Stumble(Transform):
    def __call__(self, data):
        if data["subject"] == "unfinished":
            try:
                raise KeyError("affine")
            except KeyError as error:
                raise ValueError("the affine is singular") from error
        return data


class DarkVoxels(torch.nn.Module):
    """A detector and, by its classifier, a network that finds every voxel below 0.1."""

    def forward(self, images):
        found = []
        for image in images:
            places = (image[0] < 0.1).nonzero()
            boxes = torch.cat([places - 1, places + 2], dim=1).float()
            found.append({"boxes": boxes, "scores": torch.full((len(places),), 0.75)})
        return found


class Sure(torch.nn.Module):
    def forward(self, patches):
        return torch.tensor([[0.0, 2.0]]).repeat(len(patches), 1)


COHORT = [
    {"subject": "unreadable", "dark": []},
    {"subject": "found", "dark": [(8, 9, 4), (20, 22, 7)], "lesions": [[8, 9, 4], [2, 2, 2]]},
    {"subject": "unfinished", "dark": [(8, 9, 4)], "lesions": [[8, 9, 4]]},
    {"subject": "free", "dark": [], "lesions": []},
]


def evaluator(folder, subjects, steps=(), handlers=(), num_workers=0):
    network = torch.nn.Module()
    network.detector, network.classifier = DarkVoxels(), Sure()
    loader = DataLoader(
        SubjectDataset(subjects, Compose([Read()])),
        batch_size=1,
        num_workers=num_workers,
        collate_fn=collate_subject,
    )
    return CohortEvaluator(
        "cpu",
        loader,
        network,
        inferer=TwoStageInferer((1, 1, 1), average=1),
        prepare_batch=prepare_volume,
        postprocessing=Compose([Findingsd(), *steps]),
        val_handlers=[SubjectWriter(folder, picture=False), *handlers],
        failures_file=folder / "failures.csv",
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_subjects_that_fail_do_not_stop_the_others(tmp_path, capsys, num_workers):
    engine = evaluator(tmp_path, COHORT, [Stumble()], [EvaluationReport(tmp_path)], num_workers)
    with pytest.raises(CohortError) as error:
        engine.run()
    assert str(error.value).splitlines() == [
        "2 of 4 subjects failed; the others are done.",
        "  unfinished: KeyError: 'affine'",
        "  unreadable: SubjectError: unreadable: the SWI swi.nii does not exist. Check the path.",
    ]
    failures = pd.read_csv(tmp_path / "failures.csv")
    assert failures.to_numpy().tolist() == [
        ["unfinished", "KeyError: 'affine'"],
        ["unreadable", "SubjectError: unreadable: the SWI swi.nii does not exist. Check the path."],
    ]
    assert list(failures) == ["subject", "reason"]

    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["found", "free"]
    labels = nib.load(tmp_path / "found" / "found_cmb.nii.gz").get_fdata()
    assert {tuple(v) for v in np.argwhere(labels)} == {(8, 9, 4), (20, 22, 7)}
    content = json.loads((tmp_path / "found" / "found_cmb.json").read_text())
    assert sorted(m["ras_mm"] for m in content["microbleeds"]) == [[8, 9, 4], [20, 22, 7]]
    assert {m["probability"] for m in content["microbleeds"]} == {0.8808}
    assert len((tmp_path / "free" / "free_cmb.csv").read_text().splitlines()) == 1

    scores = json.loads((tmp_path / "metrics.json").read_text())["end_to_end"]
    wanted = {"n_subjects": 2, "n_lesions": 2, "true_positives": 1, "false_negatives": 1, "false_positives": 1}
    assert {name: scores[name] for name in wanted} == wanted
    rows = [line.split(",")[:6] for line in (tmp_path / "per_subject.csv").read_text().splitlines()[1:]]
    assert rows == [["found", "2", "1", "1", "1", "0"], ["free", "0", "0", "0", "0", "0"]]
    printed = capsys.readouterr().out
    assert "2 microbleeds in 2 subjects; subjects with none: free" in printed


def test_whole_cohort_ends_quietly_and_takes_the_former_failures_away(tmp_path):
    (tmp_path / "failures.csv").write_text("subject,reason\nsomebody,something\n")
    engine = evaluator(tmp_path, [COHORT[1], COHORT[3]])
    engine.run()
    assert engine.failures == {}
    assert not (tmp_path / "failures.csv").exists()


def test_second_run_forgets_the_failures_of_the_first(tmp_path):
    engine = evaluator(tmp_path, COHORT[:2])
    with pytest.raises(CohortError, match="1 of 2 subjects failed"):
        engine.run()
    engine.data_loader.dataset.data[0] = COHORT[3]
    engine.run()
    assert not (tmp_path / "failures.csv").exists()


def test_inference_without_labels(tmp_path):
    evaluator(tmp_path, [{**COHORT[1], "lesions": None}]).run()
    assert len(json.loads((tmp_path / "found" / "found_cmb.json").read_text())["microbleeds"]) == 2


def test_evaluation_without_labels_names_the_subject(tmp_path):
    with pytest.raises(CohortError, match=r"found: ValueError: there are no labels to evaluate against"):
        evaluator(tmp_path, [{**COHORT[1], "lesions": None}], handlers=[EvaluationReport(tmp_path)]).run()


def test_subject_that_cannot_be_written(tmp_path):
    (tmp_path / "found").write_text("a file where the folder should be")
    with pytest.raises(CohortError, match=r"1 of 2 subjects failed.*\n  found: (FileExistsError|NotADirectoryError)"):
        evaluator(tmp_path, [COHORT[1], COHORT[3]]).run()
    assert (tmp_path / "free" / "free_cmb.json").is_file()


def test_being_interrupted_is_no_failure_of_a_subject(tmp_path):
    class Interrupt(Transform):
        def __call__(self, data):
            raise KeyboardInterrupt

    engine = evaluator(tmp_path, [COHORT[1]], [Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert engine.failures == {}


def test_subject_with_an_error_is_not_collated():
    assert collate_subject([{"subject": "a", "error": "x"}]) == {"subject": "a", "error": "x"}
    batch = collate_subject([{"subject": "a", "image": torch.zeros(2, 3)}])
    assert batch["subject"] == ["a"]
    assert batch["image"].shape == (1, 2, 3)


def test_failures_without_a_file():
    raise_failures({}, 3)
    with pytest.raises(CohortError, match=r"1 of 3 subjects failed; the others are done\.\n  a: reason"):
        raise_failures({"a": "reason"}, 3)


def test_training_ends_with_the_subjects_left_out(tmp_path):
    class Set(list):
        def __init__(self, number, **failures):
            super().__init__(range(number))
            self.failures = failures

    finish_training([Set(4), Set(2)], tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CohortError, match=r"^2 of 8 subjects failed"):
        finish_training([Set(4, b="no SWI"), Set(2, a="no label")], str(tmp_path))
    assert (tmp_path / "failures.csv").read_text() == "subject,reason\na,no label\nb,no SWI\n"
