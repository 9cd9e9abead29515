"""A MONAI Label app for microbleeds: the stock `monaibundle` app for this bundle, with support for DICOMweb.

Over DICOMweb it offers only the SWI series, finds the phase of the same study, and stores annotations as DICOM SEG,
even without microbleeds. `--conf bundle DIR` names the bundle; the app works on a copy of it, in `model/` of the app's
folder, so that retrained weights stay out of the bundle itself.
"""

import functools
import sys
from pathlib import Path

import monailabel.endpoints.infer
import monailabel.interfaces.app
from lib.bundle import copy_bundle, weights_in_use
from lib.dicomweb import SWIDatastore
from lib.segmentation import label_to_seg
from lib.strategies import MostUncertain, candidate_uncertainty
from lib.tasks import CMBInferTask, CMBTrainTask
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

NAME = "cmb_bundle"


class CMBApp(MONAILabelApp):
    """The app, see the module; its only model is cmb_bundle."""

    def __init__(self, app_dir, studies, conf):
        bundle = conf.get("bundle") or Path(app_dir).resolve().parents[1] / NAME
        self.bundle = copy_bundle(Path(bundle), Path(app_dir).resolve() / "model" / NAME)
        # the datastore reads DICOM with the bundle's functions
        sys.path.insert(0, str(self.bundle.parent))
        # the stock function of the endpoint responds with HTTP 500 to a scan without microbleeds
        monailabel.endpoints.infer.nifti_to_dicom_seg = label_to_seg
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Cerebral microbleeds",
            description="Finds cerebral microbleeds in SWI and phase. Not for diagnosis.",
        )

    def _init_dicomweb_datastore(self):
        series = {"image": self.conf.get("swi_series"), "phase": self.conf.get("phase_series")}
        # the base class creates its datastore by this name, from settings that only it should read
        monailabel.interfaces.app.DICOMWebDatastore = functools.partial(SWIDatastore, series=series)
        return super()._init_dicomweb_datastore()

    def init_infers(self):
        """The only inference task."""
        return {NAME: CMBInferTask(str(self.bundle), self.conf)}

    def init_trainers(self):
        """The only training task."""
        return {NAME: CMBTrainTask(str(self.bundle), self.conf)}

    def init_strategies(self):
        """The most uncertain scan first, or MONAI Label's own strategies."""
        current = functools.partial(weights_in_use, str(self.bundle))
        return {"uncertain": MostUncertain(self.infer, current), "random": Random(), "first": First()}

    def infer(self, request, datastore=None):
        """Infer, and record how uncertain the candidates of the scan are, for the choice of the next scan."""
        result = super().infer(request, datastore)
        store, image = datastore or self.datastore(), request.get("image")
        if isinstance(image, str) and not Path(image).exists() and "candidates" in (result["params"] or {}):
            uncertainty = candidate_uncertainty(
                result["params"]["candidates"], result["params"]["probability_threshold"]
            )
            weights = weights_in_use(str(self.bundle), request.get("model_filename"))
            store.update_image_info(image, {"cmb": {"uncertainty": uncertainty, "weights": weights}})
        return result
