"""Specs of the subjects of a cohort: the protocol and the head drawn about a preset."""

from __future__ import annotations

import numpy as np

from .maps import extent_about
from .spec import PHASE_SCALES, PhantomSpec


def _geometry(rng: np.random.Generator) -> dict:
    """A grid, and a head to lie on it: voxels of 0.4-1 mm by 1-5 mm, slabs of thin slices, whole heads of thick ones.

    Microbleeds are in five subjects of six and more numerous than in patients, for a detector to learn from.
    """
    in_plane, thickness = float(round(rng.uniform(0.4, 1.0), 2)), float(round(np.exp(rng.uniform(0, np.log(5))), 2))
    slices = int(min(round(144 / thickness), 60))
    spare = max(144 - slices * thickness, 0) / 2
    return {
        "spacing": (in_plane, in_plane, thickness),
        "shape": (round(224 / in_plane), round(240 / in_plane), slices),
        "centre_mm": (0.0, 0.0, float(round(rng.uniform(-spare, spare), 1))),
        "atrophy": float(round(rng.uniform(0, 3), 2)) if rng.random() < 0.4 else 0.0,
        "skull_stripped": bool(rng.random() < 0.2),
        "microbleeds": int(np.exp(rng.uniform(0, np.log(40)))) if rng.random() < 5 / 6 else 0,
    }


def subject_spec(
    spec: PhantomSpec, index: int, seed: int, vary: bool, vary_geometry: bool = False, chi_map: str = ""
) -> PhantomSpec:
    """The spec of one subject of a cohort.

    The default keeps the protocol and varies the noise a little and, in one subject of ten, the motion. With `vary`
    the field, echo time, noise, filter, phase scale, polarity and tilt are drawn from the ranges of protocols in use.
    With `vary_geometry` also the voxels, the extent, atrophy, skull stripping and the number of microbleeds.

    Args:
        spec: what all subjects share.
        index: number of the subject.
        seed: seed of the cohort.
        vary: whether the protocol varies.
        vary_geometry: whether the grid and the head vary.
        chi_map: path of a susceptibility map that takes the place of the simulated anatomy; the grid then covers its
            brain, along k at most as much as it did. "" is none.
    """
    rng = np.random.default_rng([seed, index, 20])
    changes = {"seed": int(rng.integers(2**31)), "snr": float(round(spec.snr * np.exp(rng.normal(0, 0.15)), 2))}
    moving = rng.random() < (0.2 if vary else 0.1)
    changes["ghosting"] = float(round(rng.uniform(0.05, 0.2), 3)) if moving else 0.0
    if vary:
        field = float(rng.choice([1.5, 3.0, 7.0], p=[0.3, 0.55, 0.15]))
        # The echo that suits a field is about as long as the field is low: 7 T 15-25 ms, 3 T 15-35, 1.5 T 25-45.
        shortest, longest = {1.5: (25, 45), 3.0: (15, 35), 7.0: (15, 25)}[field]
        te = float(round(rng.uniform(shortest, longest), 1))
        changes |= {
            "field_tesla": field,
            "te_ms": te,
            "tr_ms": round(te + float(rng.uniform(6, 15)), 1),
            "snr": float(round(np.exp(rng.uniform(np.log(8), np.log(60))), 2)),
            "homodyne_cutoff": float(round(rng.uniform(0.08, 0.25), 3)),
            "phase_scale": str(rng.choice(PHASE_SCALES)),
            "phase_polarity": int(rng.choice([-1, 1])),
            "bias": float(round(rng.uniform(0.0, 0.6), 3)),
            "oblique_deg": float(round(rng.uniform(0, 15), 2)),
        }
    if vary_geometry:
        changes |= _geometry(np.random.default_rng([seed, index, 21]))
    spec = spec.changed(**changes)
    if not chi_map:
        return spec
    step = spec.spacing
    across, along, height = extent_about(chi_map, spec.shape[2] * step[2])
    shape = (2 * round(across / step[0] / 2), 2 * round(along / step[1] / 2), max(3, round(height / step[2])))
    return spec.changed(chi_map=chi_map, shape=shape, centre_mm=(0.0, 0.0, 0.0))
