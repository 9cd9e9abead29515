"""Fitting what surroundings and profile say."""

import copy
import logging

import torch

from cmb_bundle.scripts.networks import ContextClassifier, JointDecision, TwoStageNetwork
from cmb_bundle.scripts.training.evidence import FEWEST, fit_evidence

SIZE = (28, 28, 8)


def candidates(number=240, margin=0):
    """Dark spots in tissue, which are microbleeds, and in bright fluid, which are not; half of each are labelled."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for n in range(number):
        in_fluid = n % 2
        size = [edge + 2 * margin for edge in SIZE]
        image = (0.8 if in_fluid else 0.5) + 0.05 * torch.randn(2, *size, generator=generator)
        centre = [edge // 2 for edge in size]
        around = tuple(slice(c - 5, c + 5) for c in centre[:2])
        image[(slice(None), *around)] = 0.5  # what the convolutions cannot tell apart
        image[1] = 0.5
        found.append(
            {
                "image": image.clamp(0, 1).half(),
                "label": 1 - in_fluid,
                "source": "candidate",
                "detector_score": 0.3 + 0.4 * float(torch.rand(1, generator=generator)),
            }
        )
    return found


def network():
    torch.manual_seed(0)
    classifier = ContextClassifier((2), (8, 8, 4), channels=(4, 4, 4), surroundings_size=SIZE)
    return TwoStageNetwork(torch.nn.Identity(), classifier, JointDecision())


def test_a_spot_in_fluid_is_no_microbleed(caplog):
    both, patches = network(), candidates()
    before = copy.deepcopy(both.state_dict())
    with caplog.at_level(logging.INFO):
        fit_evidence(both, patches)
    assert "Surroundings fitted on 240 candidates: cross-entropy 0.0" in caplog.text
    x = torch.stack([p["image"].float() for p in candidates(20)])
    evidence = both.classifier.eval().surroundings(x[:, :1])
    assert evidence[::2].min() > 2  # in tissue
    assert evidence[1::2].max() < -2  # in fluid
    for name, value in both.state_dict().items():
        learned = name.partition(".surroundings.")[2] or name.partition(".profile.")[2]
        assert torch.equal(value, before[name]) != (learned not in ("", "patch_size")), name


def test_the_same_seed_gives_the_same_and_the_generator_is_left_alone():
    first, second, third = network(), network(), network()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    fit_evidence(first, candidates(), epochs=2)
    assert torch.equal(torch.get_rng_state(), state)
    fit_evidence(second, candidates(), epochs=2)
    fit_evidence(third, candidates(), epochs=2, seed=1)
    weights = [n.classifier.surroundings.layers[0].weight for n in (first, second, third)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_margin_is_left_out():
    wide, narrow = network(), network()
    patches = candidates(20, margin=2)
    fit_evidence(wide, patches, epochs=2, fewest=5)
    fit_evidence(narrow, [p | {"image": p["image"][:, 2:-2, 2:-2, 2:-2]} for p in patches], epochs=2, fewest=5)
    for one, other in zip(wide.state_dict().values(), narrow.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_it_goes_on_from_the_weights_that_are_there():
    both = network()
    fit_evidence(both, candidates())
    around = both.classifier.surroundings
    mean, weight = around.mean.clone(), around.layers[0].weight.clone()
    fit_evidence(both, candidates(6), epochs=1, fewest=3)
    assert torch.equal(around.mean, mean)
    assert 0 < float((around.layers[0].weight - weight).abs().max()) < 0.01


def test_few_microbleeds_change_nothing(caplog):
    both = network()
    before = copy.deepcopy(both.state_dict())
    patches = candidates()
    few = [p for n, p in enumerate(patches) if n % 2 or n < 2 * (FEWEST - 1)]
    fit_evidence(both, few)
    assert "99 of 219 candidates are microbleeds; expected 100 or more, and others. What they say stays" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in both.state_dict().items())
    one_more = [p for n, p in enumerate(patches) if n % 2 or n < 2 * FEWEST]
    fit_evidence(both, one_more, epochs=1)
    assert not all(torch.equal(value, before[name]) for name, value in both.state_dict().items())


def test_lesions_and_random_places_do_not_count(caplog):
    both = network()
    before = copy.deepcopy(both.state_dict())
    patches = [p | {"source": "lesion" if p["label"] else "random"} for p in candidates()]
    fit_evidence(both, patches)
    assert "Surroundings not fitted: 0 of 0 candidates are microbleeds; expected 100" in caplog.text
    fit_evidence(both, candidates(), epochs=0)
    assert all(torch.equal(value, before[name]) for name, value in both.state_dict().items())


def test_a_classifier_without_surroundings_is_left_alone():
    both = TwoStageNetwork(torch.nn.Identity(), ContextClassifier(2, (8, 8, 4), channels=(4, 4, 4)))
    before = copy.deepcopy(both.state_dict())
    fit_evidence(both, candidates())
    assert all(torch.equal(value, before[name]) for name, value in both.state_dict().items())


def twins(number=240):
    """Spots alike on SWI, in a phase that is turned over for every other; a third has none."""
    generator = torch.Generator().manual_seed(4)
    along = (2.0 * (torch.arange(SIZE[2]) - SIZE[2] // 2))[None, None]
    i, j = torch.meshgrid(*(0.6 * (torch.arange(n) - n // 2) for n in SIZE[:2]), indexing="ij")
    distance = (i[..., None] ** 2 + j[..., None] ** 2 + along**2).sqrt().clamp(min=0.6)
    field = 0.2 * (3 * (along / distance) ** 2 - 1) / distance**3
    found = []
    for n in range(number):
        phase = 0.5 - (1 - 2 * (n % 2)) * field + 0.02 * torch.randn(*SIZE, generator=generator)
        image = torch.stack([0.5 + 0.02 * torch.randn(*SIZE, generator=generator), phase * (n % 3 > 0)])
        found.append(
            {"image": image.clamp(0, 1).half(), "label": 1 - n % 2, "source": "candidate", "detector_score": 0.5}
        )
    return found


def test_only_the_phase_tells_twins_apart(caplog):
    both, patches = network(), twins(360)
    with caplog.at_level(logging.INFO):
        fit_evidence(both, patches)
    assert "Profile fitted on 240 candidates: cross-entropy 0.0" in caplog.text
    seen = both.classifier.standardise(torch.stack([p["image"].float() for p in twins(60)])[:, :, 10:18, 10:18, 2:6])
    evidence = both.classifier.eval().profile(seen).view(-1, 6)  # of blood and calcium in turn
    assert (evidence[:, [0, 3]] == 0).all()  # without a phase
    assert evidence[:, [2, 4]].min() > 0.5 and evidence[:, [1, 5]].max() < -0.5


def test_a_profile_needs_as_many_microbleeds_with_a_phase(caplog):
    both, patches = network(), twins(240)  # 120 microbleeds, 80 of them with a phase
    before = copy.deepcopy(both.classifier.profile.state_dict())
    with caplog.at_level(logging.INFO):
        fit_evidence(both, patches, epochs=2)
    assert "Surroundings fitted on 240" in caplog.text
    assert "Profile not fitted: 80 microbleeds among 160 candidates with phase" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in both.classifier.profile.state_dict().items())
