"""Inference and training of the bundle, with fixes to the stock tasks of MONAI Label 0.8.5."""

from __future__ import annotations

import json
from pathlib import Path

from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask

from .bundle import weights_files

FINE_TUNING = 0.25
"""An annotator's training starts from trained weights, so the learning rates are multiplied by this factor."""


class CMBInferTask(BundleInferTask):
    """The stock task, with an up-to-date list of weights files, the retrained ones first."""

    def config(self):
        """Options of the model."""
        self._config["model_filename"] = weights_files(self.bundle_path)
        return super().config()

    def __call__(self, request, callbacks=None):
        """Infer as the stock task does."""
        self.config()
        return super().__call__(request, callbacks)


class CMBTrainTask(BundleTrainTask):
    """The stock task; `max_epochs` applies to both stages, and the learning rates are options."""

    def __init__(self, path, conf):
        super().__init__(path, conf)
        train = json.loads((Path(path) / "configs" / "train.json").read_text(encoding="utf-8"))
        self.rates = {
            name: FINE_TUNING * train[name] for name in ("detector_learning_rate", "classifier_learning_rate")
        }

    def config(self):
        """Options of the training."""
        return super().config() | self.rates | {"model_filename": weights_files(self.bundle_path)}

    def __call__(self, request, datastore):
        """Train as the stock task does."""
        # clients send back the empty run id that they were offered, which is not a valid run
        request = {key: value for key, value in request.items() if not (key == "run_id" and not value)}
        # the stock task adds a handler to its config, which would remain for the next training
        self.bundle_config = self._load_bundle_config(self.bundle_path, self.bundle_config_path)
        self.options = {name: float(request.get(name, rate)) for name, rate in self.rates.items()}
        self.options["classifier_epochs"] = int(request.get("max_epochs", 50))
        self.options["surroundings_epochs"] = 10  # more forget what the trained weights know of them
        return super().__call__({"model_filename": weights_files(self.bundle_path)[0]} | request, datastore)

    def _load_checkpoint(self, model_pytorch, pretrained, train_handlers):
        # the stock method fails if no weights are to be loaded
        if pretrained:
            super()._load_checkpoint(model_pytorch, pretrained, train_handlers)

    def _update_overrides(self, overrides):
        overrides.update(self.options)
        return overrides
