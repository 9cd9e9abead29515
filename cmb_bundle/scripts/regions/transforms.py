"""Each finding's region, as a step of a pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
from monai.transforms import Transform

from ..errors import SubjectError
from ..options import check_flags
from ..transforms.notices import add_warning
from .parcellation import check_covers, find_parcellation, read_parcellation
from .region_map import RegionMap
from .registration import register
from .summary import summarise
from .volumes import load_elastix

SCANS = ("image", "magnitude", "t2star")


class FindParcellationd(Transform):
    """
    Find the parcellation beside a subject's scan, before it is loaded.

    Args:
        enabled: whether regions are asked for; else nothing is done.

    Returns:
        the dictionary with ``parcellation``, a path, where there is one and the subject does not name one itself.

    Raises:
        SubjectError: there are several, or the one that the subject names is not there.
        OptionError: there is none, and itk-elastix, which is needed then, is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "P1_aseg.nii.gz").touch()
        ...     found = FindParcellationd(True)({"subject": "P1", "image": f"{folder}/P1_swi.nii.gz"})
        >>> Path(found["parcellation"]).name
        'P1_aseg.nii.gz'
    """

    def __init__(self, enabled: bool = False) -> None:
        check_flags(regions=enabled)
        self.enabled = enabled

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        if not self.enabled:
            return d
        paths = [Path(d[key]) for key in SCANS if isinstance(d.get(key), str | Path)]
        paths += [Path(d["dicom"])] if isinstance(d.get("dicom"), str) else []
        name = d.get("subject") or (paths[0].name.partition(".")[0] if paths else "")
        if d.get("parcellation") is None:
            found = find_parcellation(paths, name)
            if found:
                d["parcellation"] = found
            else:
                load_elastix()
        elif not Path(d["parcellation"]).is_file():
            raise SubjectError(f"{name}: the parcellation {d['parcellation']} does not exist. Check the path.")
        return d


class Regionsd(Transform):
    """
    Add to each finding the region that it lies in, and to the result a summary.

    Args:
        enabled: whether regions are asked for; else there is only the summary. They are those of ``parcellation``, a
            path, where the subject has one; else those of the MNI152 template, see :func:`~.registration.register`.

    Returns:
        the dictionary, in whose ``result`` each of the ``microbleeds`` has ``region``, ``category``, ``side``,
        ``border_mm`` and ``neighbours`` (see :class:`~.region_map.Place`); ``summary`` is that of
        :func:`~.summary.summarise`; ``regions`` says where the regions come from. ``region_map`` is the map, for the
        picture.

    Raises:
        SubjectError: a parcellation was given that cannot be used.
        OptionError: there is none, and itk-elastix is not installed.

    Example:
        >>> Regionsd()({"result": {"microbleeds": []}})["result"]["summary"]["band"]
        'none'
    """

    def __init__(self, enabled: bool = False) -> None:
        check_flags(regions=enabled)
        self.enabled = enabled

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        result = d["result"] = dict(d["result"])
        if self.enabled:
            result |= {key: d[key] for key in ("notices", "warnings") if d.get(key)}
            region_map, about = self._map(d)
            result["microbleeds"] = [m | region_map.locate(m["ras_mm"]).entries() for m in result["microbleeds"]]
            result["regions"] = about
            d["region_map"] = region_map
        result["summary"] = summarise(result["microbleeds"])
        return d

    def _map(self, d: dict) -> tuple[RegionMap, dict]:
        """The regions in the scan's space, and where they come from; a doubtful registration is a warning."""
        head, swi, result = np.asarray(d["head"][0]) > 0, d["swi"], d["result"]
        affine = np.asarray(swi.affine, float)
        path = d.get("parcellation")
        if path is not None:
            region_map = read_parcellation(path, subject=d["subject"])
            check_covers(region_map, head, affine, f"{d['subject']}: the parcellation {path}")
            return region_map, {"source": f"parcellation {Path(path).name}"}
        findings = [(m["ras_mm"], m["diameter_mm"]) for m in result["microbleeds"]]
        done = register(np.asarray(swi[0], np.float32), affine, head, findings)
        about = {"source": "MNI152 template", "similarity": done.similarity, "doubts": list(done.doubts)}
        if done.doubts:
            d["notices"], d["warnings"] = result.get("notices"), result.get("warnings")
            why = "; ".join(done.doubts)
            add_warning(
                d,
                f"The regions may be wrong, as the registration of the template looks wrong ({why}): look at the "
                "picture of the regions.",
            )
            result |= {"notices": d["notices"], "warnings": d["warnings"]}
        return done.region_map, about
