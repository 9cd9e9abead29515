"""The rooms: imports run downwards only, names in configs are exported, and public pieces have an example."""

import ast
import importlib
import inspect
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import torch
from ignite.metrics import Metric
from monai.inferers import Inferer
from monai.transforms import Transform

from .helpers import CONFIGS, ROOT

SCRIPTS = ROOT / "cmb_bundle" / "scripts"
# the top floor first; a room imports from its own floor and from those below it
FLOORS = [
    {"training", "follow_up"},
    {"inference"},
    {"report", "audit", "implant", "darknet"},
    {"pages"},
    {"regions"},
    {"transforms", "detection", "evaluation"},
    {"data", "networks", "annotation"},
    {"dicom", "keras", "options", "whole"},
    {"phantom", "errors", "files", "geometry", "candidate"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path, scripts: Path) -> str:
    """``transforms.load`` for transforms/load.py, ``transforms`` for its ``__init__.py``."""
    return ".".join(path.relative_to(scripts).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path, scripts: Path, modules: set[str]) -> set[str]:
    """The modules of the scripts that a file imports, at its head or within a function."""
    found = set()
    package = [*scripts.parts[-2:], *path.relative_to(scripts).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            start = start + (node.module.split(".") if node.module else [])
            # `from .room import thing`: the thing may be a module itself
            names = [[*start, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            for root in (list(scripts.parts[-2:]), [scripts.name]):
                if name[: len(root)] == root:
                    inside = name[len(root) :]
                    known = (".".join(inside[:end]) for end in range(len(inside), 0, -1))
                    found.update([m for m in known if m in modules][:1])
                    break
    return found


def read_imports(scripts: Path) -> dict[str, set[str]]:
    """The modules that each module imports."""
    paths = {module_name(path, scripts): path for path in scripts.rglob("*.py") if path.parent != scripts}
    paths |= {path.stem: path for path in scripts.glob("*.py") if path.stem != "__init__"}
    return {name: imports_of(path, scripts, set(paths)) for name, path in paths.items()}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def rooms_of(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The other rooms that each room imports."""
    rooms = {room_of(module): set() for module in imports}
    for module, imported in imports.items():
        rooms[room_of(module)] |= {room_of(other) for other in imported} - {room_of(module)}
    return rooms


def climbing(imports: dict[str, set[str]]) -> list[str]:
    """The imports that run up."""
    return sorted(
        f"{module} imports {other}"
        for module, imported in imports.items()
        for other in imported
        if FLOOR[room_of(other)] < FLOOR[room_of(module)]
    )


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def imports():
    found = read_imports(SCRIPTS)
    assert found["transforms.load"] >= {"transforms.notices", "data.layouts", "dicom.series", "errors"}
    return found


def test_every_room_has_a_floor(imports):
    assert {room_of(module) for module in imports} <= FLOOR.keys()


def test_no_room_imports_a_room_above_it(imports):
    assert climbing(imports) == []


def test_there_is_no_circle(imports):
    assert circle(rooms_of(imports)) == []
    assert circle(imports) == []


def test_the_simulator_stands_alone(imports):
    assert rooms_of(imports)["phantom"] == set()


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("data/splits.py", "from ..transforms.load import LoadSubjectd", ["data.splits imports transforms.load"]),
        ("data/splits.py", "from ..transforms import LoadSubjectd", ["data.splits imports transforms"]),
        ("options.py", "from .data import splits", ["options imports data.splits"]),
        ("data/splits.py", "from scripts.inference import detect", ["data.splits imports inference"]),
        ("data/splits.py", "import cmb_bundle.scripts.training.trainer", ["data.splits imports training.trainer"]),
        ("data/splits.py", "def f():\n    from .. import annotation, training", ["data.splits imports training"]),
    ],
)
def test_an_import_that_runs_up_is_found_however_it_is_written(tmp_path, file, line, found):
    scripts = tmp_path / "cmb_bundle" / "scripts"
    for room in ("data", "transforms", "inference", "training"):
        (scripts / room).mkdir(parents=True)
        (scripts / room / "__init__.py").touch()
    for name in ("transforms/load.py", "training/trainer.py", "data/splits.py", "options.py", "annotation.py"):
        (scripts / name).touch()
    (scripts / file).write_text(line)
    assert climbing(read_imports(scripts)) == found


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize("room", sorted(path.parent.name for path in SCRIPTS.glob("*/__init__.py")))
def test_a_room_exports_its_public_names(room):
    tree = ast.parse((SCRIPTS / room / "__init__.py").read_text(encoding="utf-8"))
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    package = importlib.import_module(f"cmb_bundle.scripts.{room}")
    assert sorted(package.__all__) == sorted(imported)
    for name in package.__all__:
        assert not name.startswith("_")
        assert hasattr(package, name), name


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_names_in_configs_are_exported_by_their_rooms(config):
    for room, name in set(re.findall(r"\bscripts\.(\w+)\.([\w.]+)", config.read_text(encoding="utf-8"))):
        package = importlib.import_module(f"cmb_bundle.scripts.{room}")
        assert name in getattr(package, "__all__", vars(package)), f"scripts.{room}.{name}"


def of_a_kind(room: str, *kinds: type) -> list[str]:
    """The classes of one of the kinds that a room exports."""
    package = importlib.import_module(f"cmb_bundle.scripts.{room}")
    exported = ((name, getattr(package, name)) for name in package.__all__)
    return [f"{room}.{name}" for name, thing in exported if isinstance(thing, type) and issubclass(thing, kinds)]


def with_examples() -> list[str]:
    """What a person who builds a pipeline puts together: transforms, detectors, inferers and metrics."""
    rooms = sorted(path.parent.name for path in SCRIPTS.glob("*/__init__.py"))
    found = [name for room in rooms for name in of_a_kind(room, Transform, Inferer, Metric)]
    found += of_a_kind("detection", torch.nn.Module)
    for module in ("agreement", "froc", "matching", "counts"):
        inside = importlib.import_module(f"cmb_bundle.scripts.evaluation.{module}")
        public = importlib.import_module("cmb_bundle.scripts.evaluation").__all__
        functions = (name for name in public if inspect.isfunction(getattr(inside, name, None)))
        found += [f"evaluation.{name}" for name in functions if getattr(inside, name).__module__ == inside.__name__]
    return found


def test_public_pieces_have_an_example():
    pieces = with_examples()
    assert {"transforms.LoadSubjectd", "detection.YOLOv2Detector", "inference.TwoStageInferer"} <= set(pieces)
    assert {"training.CandidateFROC", "evaluation.match", "darknet.RandJitterd"} <= set(pieces)
    for piece in pieces:
        room, name = piece.split(".")
        described = getattr(importlib.import_module(f"cmb_bundle.scripts.{room}"), name).__doc__
        assert "Example:\n" in described and ">>> " in described, piece
