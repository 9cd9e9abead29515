"""Profiles of microbleeds: solid, shell, cloud and lobed, and the calcified twin of any of them.

In histology an old microbleed is a focus of haemosiderin-laden macrophages, at times about a cavity or a vessel, at
times scattered loosely (review: Shoamanesh et al., Cerebrovasc Dis 2011;32:528); hence a shell, a cloud and several
lobes besides a ball. The numbers are choices.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .lesions import Lesion, apparent_to_true_radius

LAYERS = {
    "solid": ((1.0, 1.0),),
    # A wall of 30 % of the radius about a core of a tenth of its susceptibility.
    "shell": ((1.0, 1.0), (0.7, -0.9)),
    # Five steps down from the middle.
    "cloud": tuple((round(1.0 - 0.15 * n, 2), 0.2) for n in range(5)),
    "lobed": ((1.0, 1.0),),
}
LOBED_MAIN = 0.75  # diameter of the largest lobe over that of the whole


def moment(layers: tuple[tuple[float, float], ...]) -> float:
    """Magnetic moment of a profile over that of the solid sphere of the same radius.

    >>> round(moment(LAYERS["shell"]), 3), round(moment(LAYERS["cloud"]), 3)
    (0.69, 0.44)
    """
    return sum(share * size**3 for size, share in layers)


def with_profile(
    lesion: Lesion, profile: str, decay: tuple[float, float], field_tesla: float, te_ms: float, rng: np.random.Generator
) -> Lesion:
    """A lesion of another profile that looks as wide as before: its true radius follows from its magnetic moment.

    Args:
        lesion: a solid one.
        profile: one of LAYERS.
        decay: least and most that the decay within is multiplied with, log-uniform.
        field_tesla: main field.
        te_ms: echo time.
        rng: source of randomness.
    """
    layers = LAYERS[profile]
    width = lesion.diameter * (LOBED_MAIN if profile == "lobed" else 1.0)
    radius = apparent_to_true_radius(width, lesion.susceptibility * moment(layers), field_tesla, te_ms)
    factor = float(np.exp(rng.uniform(*np.log(decay))))
    return replace(lesion, profile=profile, layers=layers, radius=radius, decay=factor)


def lobes(lesion: Lesion, rng: np.random.Generator) -> list[Lesion]:
    """One to three further lobes of a lobed lesion, each of half to all of its size, that touch or overlap it."""
    others = []
    for _ in range(rng.integers(1, 4)):
        direction = rng.standard_normal(3)
        offset = direction / np.linalg.norm(direction) * lesion.radius * rng.uniform(0.8, 1.3)
        others.append(replace(lesion, centre=lesion.centre + offset, radius=lesion.radius * float(rng.uniform(0.5, 1))))
    return others


def twin(lesion: Lesion, centre: np.ndarray, pair: int) -> Lesion:
    """A calcification that differs from a microbleed in the sign of its susceptibility and in its place alone.

    Its magnitude is the same, for the signals of opposite fields are complex conjugates; its phase is turned.

    >>> bleed = Lesion("microbleed", np.zeros(3), 1.0, 3.0, 0.8, "lobar")
    >>> twin(bleed, np.ones(3), 1).susceptibility
    -0.8
    """
    return replace(lesion, kind="calcification", centre=centre, susceptibility=-lesion.susceptibility, pair=pair)
