"""The sign of the phase where the veins do not tell it: the one with which the candidates look like microbleeds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Transform

from ..detection.candidates import CANDIDATE_COLUMNS
from ..transforms.notices import add_notice, add_warning

BEST = 10
"""Candidates of each sign that are added up."""

MARGIN, RATIO = 0.5, 2.0
"""One sign is chosen where its sum of probabilities is larger than the other's by the first, half a microbleed, and
this many times as large. Lesions put into a real scan gave 0.8 to 3.9 with the right sign and 0.0 to 0.9 with the wrong
one."""

ADVICE = (
    "The phase may also be of another scan, or stored in another orientation than the image: look at both side by "
    "side. If they show the same head, compare them at veins, which are dark on the SWI, and set phase_sign to 1 or -1."
)


class ChooseSignd(Transform):
    """
    Where the sign of the phase is a guess, detect with both and take the one with the more probable microbleeds.

    With the wrong sign, a microbleed looks like a calcification, and all are lost. Where neither sign is clearly
    better, the guess stays. Each of these carries a warning.

    Args:
        to_model: the transforms from here to the two channels that both stages read.
        network: as the inferer takes it.
        inferer: gives a table of candidates, see :class:`~.inferers.TwoStageInferer`.
        device: of the network.

    Returns:
        the dictionary with the sign of ``phase`` chosen, without ``sign_guessed``, which
        :class:`~..transforms.phase.NormalizePhased` leaves; without that, unchanged.

    Example:
        >>> phase = MetaTensor(torch.full((1, 2, 2, 2), -0.5))
        >>> def inferer(volume, network):  # one candidate, the surer the more positive the phase
        ...     return torch.tensor([[[0, 0, 0, 3.0, 0.9, 1, 0.5, 0.5 + volume.mean()]]])
        >>> choose = ChooseSignd(to_model=lambda d: {"image": d["phase"]}, network=None, inferer=inferer, device="cpu")
        >>> float(choose({"phase": phase, "sign_guessed": "kept, for want of evidence"})["phase"].mean())
        0.5
    """

    def __init__(
        self, to_model: Callable[[dict], dict], network: torch.nn.Module, inferer: Inferer, device: torch.device | str
    ) -> None:
        self.to_model, self.network, self.inferer = to_model, network, inferer
        self.device = torch.device(device)

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        guess = d.pop("sign_guessed", "")
        if not guess or d.get("phase") is None:
            return d
        unknown = "The sign of the phase cannot be told from its veins"
        if self.device.type == "cuda" and torch.utils.data.get_worker_info() is not None:
            add_warning(d, f"{unknown}; it was {guess}. With num_workers 0, both signs are tried. {ADVICE}")
            return d
        turned = {**d, "phase": MetaTensor(-d["phase"].as_tensor(), meta=d["phase"].meta)}
        as_guessed, other = self.evidence(d), self.evidence(turned)
        sums = f"{as_guessed:.2f} as it was {guess.partition(',')[0]}, {other:.2f} the other way round"
        add_notice(d, f"Both signs were tried: the probabilities of the candidates add up to {sums}.")
        low, high = sorted((as_guessed, other))
        if high - low < MARGIN or high < RATIO * low:
            add_warning(d, f"{unknown}, and trying both decides nothing; it was {guess}. {ADVICE}")
            return d
        kept = guess.startswith("kept")
        if other > as_guessed:
            d["phase"], kept = turned["phase"], not kept
        chosen = "kept" if kept else "turned"
        add_warning(d, f"{unknown}; it was {chosen}, since the candidates then look more like microbleeds. {ADVICE}")
        return d

    @torch.no_grad()
    def evidence(self, data: Mapping[Hashable, object]) -> float:
        """The sum of the probabilities of the best candidates; of their scores, where there is no second stage."""
        volume = self.to_model(dict(data))["image"]
        table = self.inferer(volume[None].to(self.device), self.network)[0].cpu()
        score, probability = (table[:, CANDIDATE_COLUMNS.index(name)] for name in ("detector_score", "probability"))
        found = torch.where(probability.isnan(), score, probability).nan_to_num(0.0)
        return float(found.sort(descending=True).values[:BEST].sum())
