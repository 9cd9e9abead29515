"""What headers and JSON files tell of the images of a subject."""

from __future__ import annotations

from ..data.declared import problem_of_header, read_declared
from ..data.sidecars import Acquisition, read_sidecar
from ..dicom.reader import Volume


def acquisition(source) -> Acquisition:
    """How an image was acquired, by its DICOM header or the JSON file beside it."""
    if isinstance(source, Volume):
        echo_ms = () if source.echo_ms is None else (source.echo_ms,)
        return Acquisition(echo_ms, source.field_tesla, source.manufacturer)
    return read_sidecar(source)


def about_phase(source, acquired: Acquisition) -> dict:
    """What is known of a phase's unit and sign, by its own header or JSON file, else by that of its magnitude."""
    own = acquisition(source)
    known = {
        "units": own.units,
        "manufacturer": own.manufacturer or acquired.manufacturer,
        "echo_ms": next(iter(acquired.echo_ms if len(acquired.echo_ms) == 1 else own.echo_ms), None),
        "field_tesla": own.field_tesla or acquired.field_tesla,
    }
    return {name: value for name, value in known.items() if value}


def doubts(paths: dict, reference: str, acquired: Acquisition) -> str:
    """Why the headers are of no susceptibility-weighted scan of a head, as a sentence; empty where they may be."""
    echo_ms = acquired.echo_ms[0] if len(acquired.echo_ms) == 1 else None
    for key in (reference, *(other for other in paths if other != reference)):
        source = paths[key]
        declared = source.declared if isinstance(source, Volume) else read_declared(source)
        if isinstance(source, Volume) and source.kind.name == "swi":  # which its header says, whatever its name
            declared = {name: declared[name] for name in ("Modality", "BodyPartExamined") if name in declared}
            echo_ms = None
        problem = problem_of_header(declared, echo_ms if key == reference else None)
        if problem:
            return problem
    return ""
