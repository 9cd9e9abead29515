"""Volumes as registrations compare them, and the library that registers them."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy import ndimage
from skimage.metrics import normalized_mutual_information

from ..errors import OptionError
from ..phantom.grid import Grid

STEP_MM = 2.0


def load_elastix(why: str = "regions is True", instead: str = "; or put a parcellation beside each scan."):
    """
    Load itk with elastix.

    Args:
        why: which option needs it.
        instead: what can be done without it, as the end of a sentence.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import itk

        _ = itk.ElastixRegistrationMethod  # loads the module
    except (ImportError, AttributeError) as error:
        raise OptionError(
            f"{why}, but itk-elastix, which registers, is not installed. Install it: "
            f"pip install 'cmb-bundle[regions]' or pip install itk-elastix{instead}"
        ) from error
    return itk


def coarse_volume(image: np.ndarray, affine: np.ndarray, head: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scan averaged to about 2 mm where it is finer, clipped and scaled to 0..1; its affine; its head."""
    step = np.maximum(np.floor(STEP_MM / np.linalg.norm(affine[:3, :3], axis=0) + 0.3), 1).astype(int)
    shape = np.array(image.shape) // step
    blocks = (shape[0], step[0], shape[1], step[1], shape[2], step[2])
    cut = tuple(slice(0, n) for n in shape * step)
    volume = image[cut].reshape(blocks).mean((1, 3, 5), dtype=np.float32)
    mask = head[cut].reshape(blocks).mean((1, 3, 5), dtype=np.float32) > 0.5
    top = np.percentile(volume[mask], 99) if mask.any() else volume.max()
    volume = np.clip(volume / max(float(top), 1e-6), 0, 1.2)
    return volume, affine @ nib.affines.from_matvec(np.diag(step), (step - 1) / 2), mask


def sample_at(volume: np.ndarray, grid: Grid, points: np.ndarray, order: int = 1) -> np.ndarray:
    """Values at places in mm (3, ...); 0 outside."""
    column = (3,) + (1,) * (points.ndim - 1)
    index = (points - np.reshape(grid.origin, column)) / np.reshape(grid.step, column)
    return ndimage.map_coordinates(volume, index.astype(np.float32), order=order, mode="constant")


def similarity_of(a: np.ndarray, b: np.ndarray, bins: int = 32) -> float:
    """Normalised mutual information of two lists of values; 1 where there is none."""
    if len(a) < 50 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 1.0
    return float(normalized_mutual_information(a, b, bins=bins))


def itk_image(itk, array: np.ndarray, grid: Grid):
    image = itk.image_view_from_array(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetOrigin(list(grid.origin))
    image.SetSpacing(list(grid.step))
    return image
