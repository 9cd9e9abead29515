"""Small scans with labels, made of noise, for the tests of the zoo; the bundle's simulator is not needed."""

from pathlib import Path

import nibabel as nib
import numpy as np

SIZE = (64, 72, 12)
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


def write_scans(folder: Path, subjects: int = 5) -> None:
    """Write ``<id>_swi.nii.gz``, ``<id>_phase.nii.gz`` and ``<id>_label.csv`` (slice, x, y, from 1) of each subject."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij"), axis=-1)
    head = (((grid - np.array(SIZE) / 2 + 0.5) / (np.array(SIZE) * 0.45)) ** 2).sum(-1) < 1
    for number in range(subjects):
        swi = head * (300 + 20 * generator.normal(size=SIZE)) + 3 * generator.random(SIZE)
        phase = 0.1 * generator.normal(size=SIZE)
        rows = []
        for _ in range(3):
            centre = np.array(SIZE) // 2 + generator.integers(-8, 9, 3) // (1, 1, 4)
            dot = ((grid - centre) ** 2 * (0.64, 0.64, 4)).sum(-1) < 1.8**2
            swi[dot] *= 0.3
            phase[dot] += 1.0
            rows.append((centre[2] + 1, centre[0] + 1, centre[1] + 1))
        name = folder / f"subject-{number}"
        nib.save(nib.Nifti1Image(swi.clip(0).astype(np.float32), AFFINE), f"{name}_swi.nii.gz")
        nib.save(nib.Nifti1Image(phase.clip(-3.14, 3.14).astype(np.float32), AFFINE), f"{name}_phase.nii.gz")
        Path(f"{name}_label.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
