"""One network with both stages, so that one file holds all weights."""

from __future__ import annotations

from torch import Tensor, nn


class TwoStageNetwork(nn.Module):
    """Both stages in one module, so that one state_dict holds all weights.

    Args:
        detector: stage 1, a detector with a child ``network``.
        classifier: stage 2, patches to logits.
        decision: the probability from the outputs of both, see :class:`~.decision.JointDecision`; None leaves it to
            stage 2 alone, as published.
    """

    def __init__(self, detector: nn.Module, classifier: nn.Module, decision: nn.Module | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.classifier = classifier
        self.decision = decision

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw tensor of the detector's network for slices (B, C, H, W).

        The two-stage logic is in the inferer.
        """
        return self.detector.network(x)
