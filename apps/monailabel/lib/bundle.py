"""The app's own copy of the bundle, and the weights files in it."""

from __future__ import annotations

import filecmp
import shutil
import uuid
from pathlib import Path

RETRAINED = "retrained.pt"


def copy_bundle(source: Path, target: Path) -> Path:
    """
    Update the app's copy of the bundle; files that exist only in the copy, such as retrained weights, are kept.

    Args:
        source: a bundle's folder, with configs, models and scripts.
        target: the copy.

    Returns:
        the copy.

    Raises:
        FileNotFoundError: the source is not a bundle.
    """
    if not (source / "configs" / "inference.json").is_file():
        raise FileNotFoundError(
            f"{source} is not a bundle: it has no configs/inference.json. Give one by --conf bundle DIR."
        )
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir() or "__pycache__" in path.parts or (copy.is_file() and filecmp.cmp(path, copy, shallow=False)):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        aside = copy.with_name(f".{uuid.uuid4().hex}.{copy.name}")
        shutil.copyfile(path, aside)
        aside.replace(copy)
    return target


def weights_files(bundle: str) -> list[str]:
    """Names of the weights files in order of preference: the retrained ones, then the shipped ones."""
    names = sorted(path.name for path in (Path(bundle) / "models").glob("*.pt") if not path.name.startswith("."))
    return sorted(names, key=lambda name: name != RETRAINED)


def weights_in_use(bundle: str, requested: str | list | None = None) -> str:
    """Identify the weights that inference uses, by name and time of the last change."""
    requested = requested[0] if isinstance(requested, list) and requested else requested
    name = requested or weights_files(bundle)[0]
    return f"{name} {(Path(bundle) / 'models' / name).stat().st_mtime_ns}"
