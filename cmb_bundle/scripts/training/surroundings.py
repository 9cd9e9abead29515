"""Fit what the surroundings of a candidate say, after the convolutions of stage 2 were trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ignite.distributed as idist
import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from ..networks.classifier import middle
from ..networks.decision import JointDecision
from ..networks.surroundings import Surroundings

logger = logging.getLogger(__name__)

BATCH_SIZE = 128
FEWEST = 100
"""Microbleeds among the candidates below which nothing is fitted."""
JITTER = 0.3
"""Standard deviation of the noise added to what was measured, in units of its own deviation over the candidates."""


def fit_surroundings(
    network: nn.Module,
    patches: Sequence[Mapping],
    epochs: int = 40,
    learning_rate: float = 0.002,
    weight_decay: float = 0.05,
    seed: int = 0,
    fewest: int = FEWEST,
) -> None:
    """
    Fit a classifier's :class:`~..networks.surroundings.Surroundings` on the candidates that it was trained on.

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
        fewest: microbleeds among the candidates below which the network is left unchanged.
    """
    surroundings = getattr(network.classifier, "surroundings", None)
    if surroundings is None or epochs == 0:
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
    logits, measured = _look(network.classifier.eval(), surroundings, candidates)
    scores = np.array([patch["detector_score"] for patch in candidates])
    known = JointDecision()
    known.fit(scores, logits.double().numpy(), labels)
    before = known(torch.as_tensor(scores), logits.double()).logit(eps=1e-7).float()
    share = max(float(known.weights[1]), 0.1)
    was, now = _train(surroundings, before, share, measured, labels, epochs, learning_rate, weight_decay, seed)
    logger.info(f"Surroundings fitted on {len(labels)} candidates: cross-entropy {now:.4f}, without them {was:.4f}")


@torch.no_grad()
def _look(
    classifier: nn.Module, surroundings: Surroundings, patches: Sequence[Mapping]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N,) of the convolutions, and what is measured around each candidate (N, F)."""
    device, core = next(classifier.parameters()).device, classifier.patch_size
    logits, measured = [], []
    for start in tqdm(range(0, len(patches), BATCH_SIZE), desc="Surroundings", disable=idist.get_rank() > 0):
        batch = torch.stack([torch.as_tensor(p["image"]) for p in patches[start : start + BATCH_SIZE]])
        batch = middle(batch.to(device).float(), classifier.surroundings_size)
        found = classifier(middle(batch, core), mirrored=False).float().cpu()
        logits.append(found[:, 1] - found[:, 0])
        measured.append(surroundings.measure(batch[:, :1]).cpu())
    return torch.cat(logits), torch.cat(measured)


def _train(
    surroundings: Surroundings,
    before: torch.Tensor,
    share: float,
    measured: torch.Tensor,
    labels: np.ndarray,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
) -> tuple[float, float]:
    """Fit; return the mean cross-entropy of the candidates without the surroundings and with them."""
    device = surroundings.mean.device
    before, measured, truth = (x.to(device) for x in (before, measured, torch.as_tensor(labels).float()))
    if not bool(surroundings.layers[-1].weight.any()):  # not fitted before
        surroundings.mean.copy_(measured.mean(dim=0))
        surroundings.scale.copy_(measured.std(dim=0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(surroundings.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        surroundings.train().requires_grad_(True)
        for _ in range(epochs):
            for batch in torch.randperm(len(truth)).split(BATCH_SIZE):
                noise = JITTER * surroundings.scale * torch.randn(len(batch), measured.shape[1]).to(device)
                found = before[batch] + share * surroundings.judge(measured[batch] + noise)
                loss = binary_cross_entropy_with_logits(found, truth[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    surroundings.eval().requires_grad_(False)
    with torch.no_grad():
        after = before + share * surroundings.judge(measured)
    return tuple(float(binary_cross_entropy_with_logits(x, truth)) for x in (before, after))
