"""Fit what is measured of candidates beside the convolutions, after those of stage 2 were trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from ..networks.classifier import ContextClassifier, middle
from ..networks.decision import JointDecision
from ..networks.evidence import Evidence

logger = logging.getLogger(__name__)

BATCH_SIZE = 128
FEWEST = 100
"""Microbleeds among the candidates below which nothing is fitted."""
JITTER = 0.3
"""Standard deviation of the noise added to what was measured, in units of its own deviation over the candidates."""


def fit_evidence(
    network: nn.Module,
    patches: Sequence[Mapping],
    epochs: int = 40,
    learning_rate: float = 0.002,
    weight_decay: float = 0.05,
    seed: int = 0,
    fewest: int = FEWEST,
) -> None:
    """
    Fit a classifier's :class:`~..networks.surroundings.Surroundings` on the candidates that it was trained on, and then
    its :class:`~..networks.profile.Profile` on those of them that have a phase.

    The score of stage 1 and the logit of the convolutions stay as they are; a logistic regression of both is what the
    evidence is added to, so that it learns what those two do not know. It goes on from the weights that are there.
    Needs seconds. A classifier without surroundings is left alone.

    Few microbleeds teach more by chance than in truth. Learned from simulated T2*-weighted heads, and scored on 60
    others, untrained surroundings lost with 20 microbleeds and fewer, gained nothing with 50 to 120, and gained from
    200 on; the shipped ones lost in 40 epochs with fewer than 120, and gained in 10 epochs from 350 on.

    Args:
        network: both stages.
        patches: of :class:`~.patches.PatchCollector`, with their surroundings; only candidates of stage 1 count. If
            these are not of both labels, the network is left unchanged.
        epochs: how often all candidates are gone through.
        learning_rate: of AdamW at the start; it falls as a cosine.
        weight_decay: of AdamW.
        seed: of the order and of the noise.
        fewest: microbleeds among the candidates below which surroundings or profile are left unchanged.
    """
    classifier = network.classifier
    if getattr(classifier, "surroundings", None) is None or epochs == 0:
        return
    candidates = [patch for patch in patches if patch["source"] == "candidate"]
    labels = np.array([patch["label"] for patch in candidates])
    microbleeds = int(labels.sum())
    if not max(fewest, 1) <= microbleeds < len(labels):
        logger.warning(
            f"Surroundings not fitted: {microbleeds} of {len(labels)} candidates are microbleeds; expected {fewest} or "
            "more, and others. What they say stays as it was."
        )
        return
    logits, around, profiles, has_phase = _look(classifier.eval(), candidates)
    scores = np.array([patch["detector_score"] for patch in candidates])
    known = JointDecision()
    known.fit(scores, logits.double().numpy(), labels)
    before = known(torch.as_tensor(scores), logits.double()).logit(eps=1e-7).float()
    options = {
        "share": max(float(known.weights[1]), 0.1),
        "epochs": epochs,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
    }
    truth = torch.as_tensor(labels).float()
    before, was, now = train(classifier.surroundings, before, around, truth, **options)
    logger.info(f"Surroundings fitted on {len(labels)} candidates: cross-entropy {now:.4f}, without them {was:.4f}")
    microbleeds = int(truth[has_phase].sum())
    if classifier.profile is None or not max(fewest, 1) <= microbleeds < int(has_phase.sum()):
        logger.info(f"Profile not fitted: {microbleeds} microbleeds among {int(has_phase.sum())} candidates with phase")
        return
    _, was, now = train(classifier.profile, before[has_phase], profiles, truth[has_phase], **options)
    logger.info(f"Profile fitted on {len(profiles)} candidates: cross-entropy {now:.4f}, without it {was:.4f}")


@torch.no_grad()
def _look(
    classifier: ContextClassifier, patches: Sequence[Mapping]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (N,) of the convolutions; what surroundings (N, F) and profile measure; where (N,) there is a phase."""
    device, core = next(classifier.parameters()).device, classifier.patch_size
    logits, around, profiles, has_phase = [], [], [], []
    for start in tqdm(range(0, len(patches), BATCH_SIZE), desc="Surroundings", disable=idist.get_rank() > 0):
        batch = torch.stack([torch.as_tensor(p["image"]) for p in patches[start : start + BATCH_SIZE]])
        batch = middle(batch.to(device).float(), classifier.surroundings_size)
        inner = middle(batch, core)
        found = classifier(inner, mirrored=False).float().cpu()
        logits.append(found[:, 1] - found[:, 0])
        around.append(classifier.surroundings.measure(batch[:, :1]).cpu())
        has_phase.append((inner[:, 1:] > 0).flatten(1).any(dim=1).cpu())
        if classifier.profile is not None:
            seen = classifier.standardise(inner[has_phase[-1].to(device)])
            profiles.append(classifier.profile.measure(seen).cpu())
    empty = torch.zeros(0, 0)
    return torch.cat(logits), torch.cat(around), torch.cat(profiles) if profiles else empty, torch.cat(has_phase)


def train(
    evidence: Evidence,
    before: torch.Tensor,
    measured: torch.Tensor,
    labels: torch.Tensor,
    share: float,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> tuple[torch.Tensor, float, float]:
    """
    Fit one kind of evidence.

    Args:
        evidence: goes on from its weights; from none, it first learns mean and scale of what was measured.
        before: (N,) log odds of a microbleed without it.
        measured: (N, F).
        labels: (N,) 1 for a microbleed, 0 otherwise.
        share: what the evidence is multiplied with when it is added to ``before``.
        epochs, learning_rate, weight_decay, seed: see :func:`fit_evidence`.

    Returns:
        (N,) the log odds with it, and the mean cross-entropy of the candidates without it and with it.
    """
    device = evidence.mean.device
    before, measured, truth = before.to(device), measured.to(device), labels.to(device)
    if not bool(evidence.layers[-1].weight.any()):  # not fitted before
        evidence.mean.copy_(measured.mean(dim=0))
        evidence.scale.copy_(measured.std(dim=0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(evidence.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        evidence.train().requires_grad_(True)
        for _ in range(epochs):
            for batch in torch.randperm(len(truth)).split(BATCH_SIZE):
                noise = JITTER * evidence.scale * torch.randn(len(batch), measured.shape[1]).to(device)
                found = before[batch] + share * evidence.judge(measured[batch] + noise)
                loss = binary_cross_entropy_with_logits(found, truth[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    evidence.eval().requires_grad_(False)
    with torch.no_grad():
        after = before + share * evidence.judge(measured)
        was, now = (float(binary_cross_entropy_with_logits(x, truth)) for x in (before, after))
    return after.cpu(), was, now
