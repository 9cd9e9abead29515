"""Use a DICOMweb server as a datastore of SWI scans with their phases and annotations."""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import binary_to_image
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset

from lib.segmentation import make_seg, seg_to_label

logger = logging.getLogger(__name__)

KINDS = {"image": "swi", "phase": "phase"}
ANNOTATED = ("SEMIAUTOMATIC", "MANUAL")
"""SegmentAlgorithmType of segments that a person has reviewed; a SEG by a program alone is not an annotation."""


class SWIDatastore(DICOMWebDatastore):
    """
    The SWI series of a DICOMweb server.

    Only series whose headers say SWI are offered. Along with a scan, the phase of its study is fetched into a folder
    `phase` next to it, under the same name, where inference and training look for it. Annotations are stored as
    DICOM SEG, even without microbleeds; if a scan has several, the newest counts.

    Args:
        series: for image (SWI) and phase, if the headers do not decide, a regular expression to search for in
            SeriesDescription.
        args, kwargs: arguments of the base class.
    """

    def __init__(self, *args, series: dict[str, str | None] | None = None, **kwargs) -> None:
        self._series = {key: value for key, value in (series or {}).items() if value}
        self._kinds: dict[str, str] = {}
        super().__init__(*args, **kwargs)

    def list_images(self) -> list[str]:
        """SeriesInstanceUIDs of the SWI series."""
        series = [Dataset.from_json(one) for one in self._client.search_for_series(search_filters={"Modality": "MR"})]
        return sorted(str(one.SeriesInstanceUID) for one in series if self._is(one, "image"))

    def _is(self, series: Dataset, key: str) -> bool:
        pattern = self._series.get(key)
        if pattern:
            return re.search(pattern, str(series.get("SeriesDescription", "")), re.IGNORECASE) is not None
        return self._kind(series) == KINDS[key]

    def _kind(self, series: Dataset) -> str:
        """What a series shows, by the header of one of its images; requested once per series."""
        from cmb_bundle.scripts.dicom.reader import frame_kind

        uid, study = str(series.SeriesInstanceUID), str(series.StudyInstanceUID)
        if uid not in self._kinds:
            first = self._client.search_for_instances(study, uid, limit=1)[0]
            instance = str(Dataset.from_json(first).SOPInstanceUID)
            image = Dataset.from_json(self._client.retrieve_instance_metadata(study, uid, instance))
            self._kinds[uid] = frame_kind(image).name
        return self._kinds[uid]

    def get_image_uri(self, image_id: str) -> str:
        """The scan as a NIfTI file; its phase is fetched too, if the study has one."""
        made = Path(super().get_image_uri(image_id))
        path = Path(self._datastore.image_path()).resolve() / f"{image_id}.nii.gz"
        if made.resolve() != path:
            # on the first call, the base class returns the temporary file that it has copied
            made.unlink()
        phase = path.parent / "phase" / path.name
        if not phase.exists():
            self._fetch_phase(image_id, path, phase)
        return str(path)

    def _fetch_phase(self, image_id: str, image: Path, phase: Path) -> None:
        from cmb_bundle.scripts.dicom.pixels import read_volume
        from cmb_bundle.scripts.dicom.reader import dicom_files, read_volumes
        from cmb_bundle.scripts.dicom.series import choose_series
        from cmb_bundle.scripts.errors import DicomError
        from cmb_bundle.scripts.inference.findings import to_file_grid

        own = Dataset.from_json(self._client.search_for_series(search_filters={"SeriesInstanceUID": image_id})[0])
        study = str(own.StudyInstanceUID)
        others = self._client.search_for_series(study, search_filters={"Modality": "MR"})
        phases = [str(one.SeriesInstanceUID) for one in map(Dataset.from_json, others) if self._is(one, "phase")]
        files = list(dicom_files(image.parent / image_id))
        for uid in phases:
            folder = image.parent / uid
            if not folder.is_dir() or not any(folder.iterdir()):
                dicom_web_download_series(study, uid, str(folder), self._client)
            files += dicom_files(folder)
        try:
            chosen = choose_series(read_volumes(files), self._series | {"image": image_id, "magnitude": False})
        except DicomError as error:
            logger.warning(f"{image_id}: its phase is not used: {error}")
            return
        if "phase" not in chosen.volumes:
            reason = f"{len(phases)} phase series were found, but none fits" if phases else "no phase series was found"
            logger.warning(f"{image_id}: only SWI is used; in its study {reason}. Name one by --conf phase_series.")
            return
        volume = read_volume(chosen.volumes["phase"])
        values = volume[0].numpy() * float(volume.meta.get("radians_per_unit", 1.0))
        grid = nib.load(image)
        turned = to_file_grid(values, volume.affine.numpy(), grid.affine, grid.shape)
        phase.parent.mkdir(exist_ok=True)
        aside = phase.with_name(f".{phase.name}")
        nib.save(nib.Nifti1Image(turned[0].numpy(), grid.affine), aside)
        aside.replace(phase)

    def _annotations(self) -> dict[str, tuple[str, str]]:
        """For each annotated scan, the series and the study of the newest annotation."""
        newest: dict[str, tuple[str, str, str]] = {}
        for one in map(Dataset.from_json, self._client.search_for_series(search_filters={"Modality": "SEG"})):
            study, uid = str(one.StudyInstanceUID), str(one.SeriesInstanceUID)
            seg = Dataset.from_json(self._client.retrieve_series_metadata(study, uid)[0])
            if not seg.get("ReferencedSeriesSequence"):
                continue
            if any(s.get("SegmentAlgorithmType") not in ANNOTATED for s in seg.SegmentSequence):
                continue
            made = f"{seg.get('ContentDate', '')}{seg.get('ContentTime', '')}"
            image = str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
            newest[image] = max(newest.get(image, ("", "", "")), (made, uid, study))
        return {image: (uid, study) for image, (_, uid, study) in newest.items()}

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Scans with an annotation on the server."""
        return sorted(set(self._annotations()) & set(self.list_images()))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Scans without an annotation on the server."""
        return sorted(set(self.list_images()) - set(self._annotations()))

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label map, and if it is final store it on the server as DICOM SEG."""
        image, label_info = self.get_image_uri(image_id), dict(label_info or {})
        if label_filename.endswith(".bin"):
            label_filename = binary_to_image(image, label_filename)
        if label_tag == DefaultLabelTag.FINAL:
            seg = make_seg(str(Path(image).parent / image_id), label_filename, annotated=True)
            self._client.store_instances([seg])
            label_info["SeriesInstanceUID"] = str(seg.SeriesInstanceUID)
        return LocalDatastore.save_label(self, image_id, label_filename, label_tag, label_info)

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Pairs of image and label of the annotated scans on the server, downloaded if they are not in the cache."""
        annotations = {image: a for image, a in self._annotations().items() if image in self.list_images()}
        pairs = []
        for image_id, (uid, study) in annotations.items():
            image = self.get_image_uri(image_id)
            info = self.get_label_info(image_id, DefaultLabelTag.FINAL)
            if info.get("SeriesInstanceUID") != uid:
                folder = Path(self._datastore.label_path(DefaultLabelTag.FINAL)) / uid
                dicom_web_download_series(study, uid, str(folder), self._client)
                with tempfile.TemporaryDirectory() as scratch:
                    label = seg_to_label(str(next(folder.iterdir())), image, f"{scratch}/label.nii.gz")
                    LocalDatastore.save_label(self, image_id, label, DefaultLabelTag.FINAL, {"SeriesInstanceUID": uid})
            pairs.append({"image": image, "label": self.cached_label_uri(image_id)})
        return pairs

    def cached_label_uri(self, image_id: str) -> str:
        """The label map of a scan in the cache."""
        return LocalDatastore.get_label_uri(self, image_id, DefaultLabelTag.FINAL)
