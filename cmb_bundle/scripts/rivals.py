"""Another system beside the one that is evaluated, on the same subjects, in the same report."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.inferers import Inferer

from .evaluation import EvaluationReport, record_subject
from .options import check_flags


class Rival:
    """
    Let another inferer find microbleeds in each subject of an evaluation, and add its records to the report.

    Args:
        report: the evaluation's report, attached before.
        inferer: of the rival; called with the volume and the evaluation's network, so that stage 2 may be the same.
        postprocessing: makes the findings of a subject's dictionary, as of the evaluation.
        system: the rival's name.
        enabled: False evaluates the main system alone.
    """

    def __init__(
        self,
        report: EvaluationReport,
        inferer: Inferer,
        postprocessing: Callable[[Mapping], Mapping],
        system: str,
        enabled: bool = True,
    ) -> None:
        check_flags(compare_with_baseline=enabled)
        self.report, self.inferer, self.postprocessing = report, inferer, postprocessing
        self.system, self.enabled = system, enabled

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.collect)

    def collect(self, engine: Engine) -> None:
        """Record the subjects of an iteration as the rival sees them."""
        report = self.report
        threshold = getattr(self.inferer, "score_threshold", None)
        about = report.about | {"system": self.system, "candidate_threshold": threshold}
        engine.network.eval()
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            volume = torch.as_tensor(batch["image"])[None].to(engine.state.device)
            table = self.inferer(volume, engine.network)[0]
            found = self.postprocessing({**batch, "pred": table})
            result = {"label": output["label"], "result": found["result"]}
            report.records.append(record_subject(batch, result, report.distance_mm, report.crops, **about))
