"""Kinds of scan: what is written, and a protocol, processing and head drawn from the ranges in use.

Each range stands beside its source. Where a source gives a range and no distribution, the draw is uniform or, over
more than a factor of two, log-uniform. Shares of heads with a rare disease are choices, far above those in a clinic,
for a detector has to meet it in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .draws import subject_spec
from .maps import extent_about
from .spec import SMALL, PhantomSpec
from .variety import PROFILES, Content, Processing

OUTPUTS_OF = {
    "swi_phase": ("SWI", "Magnitude", "Phase"),
    "swi_only": ("SWI",),
    "magnitude_phase": ("Magnitude", "Phase"),
    "t2star": ("T2star",),
}
KINDS = (*OUTPUTS_OF, *(f"map_{name}" for name in OUTPUTS_OF))

# 3D, susceptibility-weighted: 0.45-0.94 mm in plane and slices of 1-3 mm in the protocols of the reviews (Haller et
# al., Radiology 2018;287:11; Haacke et al., AJNR 2009;30:19); to 4 mm where 2 mm slices are averaged in pairs.
SWI_IN_PLANE_MM, SWI_SLICE_MM = (0.45, 1.0), (1.0, 4.0)
# 2D T2*-weighted: about the protocols in Greenberg et al., Lancet Neurol 2009;8:165 and in the cohorts of VALDO (Sudre
# et al., Med Image Anal 2024;91:103029), made wider at both ends.
T2STAR_IN_PLANE_MM, T2STAR_SLICE_MM, T2STAR_GAP_SHARE = (0.7, 1.1), (3.0, 6.0), (0.05, 0.3)
T2STAR_TE_MS = {1.5: (20.0, 40.0), 3.0: (15.0, 30.0)}
T2STAR_TR_MS, T2STAR_FLIP_DEG, T2STAR_SNR = (400.0, 1200.0), (15.0, 30.0), (20.0, 80.0)
# Windows of 32-128 lines of 256 mm: 64 is common (Haacke et al., Magn Reson Med 2004;52:612).
HOMODYNE_CYCLES_PER_MM = (0.06, 0.25)
# Mask powers: 4 is the published optimum for veins (Haacke 2004); 2-5 are offered.
SWI_POWERS = (2, 5)
# Standard deviation of the high-pass filter after unwrapping.
HIGHPASS_MM = (3.0, 10.0)
# Signal of large arteries in 2D: from a flow void to fresh, unsaturated blood.
T2STAR_ARTERY = (0.1, 2.0)


def chosen(kinds: str | Sequence[str], with_maps: bool) -> list[str]:
    """Names of kinds from "all", one name, names with commas, or a list.

    >>> chosen("t2star,swi_only", False), len(chosen("all", True))
    (['t2star', 'swi_only'], 8)

    Args:
        kinds: what was asked for.
        with_maps: whether there are maps to make the kinds of "map_" from.

    Raises:
        ValueError: an unknown kind, one of a map without maps, or maps that none of the kinds takes.
    """
    names = kinds.replace(" ", "").split(",") if isinstance(kinds, str) else list(kinds or ())
    if names == ["all"]:
        names = [k for k in KINDS if with_maps or not k.startswith("map_")]
    names = [name for name in names if name]
    for name in names:
        if name not in KINDS:
            raise ValueError(f"kinds names {name!r}; expected some of {', '.join(KINDS)}, or all")
        if name.startswith("map_") and not with_maps:
            raise ValueError(f"kinds names {name!r}, which takes a susceptibility map; name a folder of them with maps")
    if names and with_maps and not any(name.startswith("map_") for name in names):
        raise ValueError(
            f"kinds is {', '.join(names)}, none of which takes susceptibility maps; leave maps out, or name "
            f"some of {', '.join(k for k in KINDS if k.startswith('map_'))}"
        )
    return names


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _geometry(base: PhantomSpec, kind: str, chi_map: str, zoom: int, rng: np.random.Generator) -> dict:
    """Voxels of the kind over the extent of the base, or of the map, whichever is less high."""
    thick = kind == "t2star"
    in_plane = rng.uniform(*(T2STAR_IN_PLANE_MM if thick else SWI_IN_PLANE_MM))
    if zoom > 1:
        in_plane = max(in_plane, 0.8)
    slice_mm = rng.uniform(*T2STAR_SLICE_MM) if thick else _log_uniform(rng, *SWI_SLICE_MM)
    gap = float(round(slice_mm * rng.uniform(*T2STAR_GAP_SHARE), 2)) if thick else 0.0
    pitch, in_plane = float(round(slice_mm + gap, 2)), float(round(in_plane, 2))
    extent = np.array(base.shape) * np.array(base.spacing)
    middle, shift = np.array(base.centre_mm), 0.0
    if chi_map:
        whole = extent_about(chi_map, np.inf)
        extent, middle = np.array(extent_about(chi_map, extent[2])), np.zeros(3)
        shift = rng.uniform(-1, 1) * (whole[2] - extent[2]) / 2
    slices = max(3, round(extent[2] / pitch))
    if not thick and slices > 60:
        # Thin slices make a slab somewhere in the extent.
        slices, spare = 60, extent[2] - 60 * pitch
        shift += rng.uniform(-0.5, 0.5) * spare
    in_voxels = [2 * round(length / in_plane / 2) for length in extent[:2]]
    centre = (float(middle[0]), float(middle[1]), float(round(middle[2] + shift, 1)))
    return {
        "spacing": (in_plane, in_plane, pitch),
        "shape": (*in_voxels, slices),
        "centre_mm": centre,
        "gap_mm": gap,
    }


def _processing(kind: str, zoom: int, slices: int, rng: np.random.Generator) -> Processing:
    """What the scanner and the archive do; the shares of each are choices."""
    has_phase = kind in ("swi_phase", "magnitude_phase")
    unfiltered = 0.5 if kind == "magnitude_phase" else 0.1 if has_phase else 0.0
    phase_filter = str(rng.choice(("homodyne", "gaussian", "none"), p=(0.7 - unfiltered, 0.3, unfiltered)))
    projected = {"swi_only": 0.4, "swi_phase": 0.15}.get(kind, 0.0)
    empty = int(rng.integers(1, 3)) if slices >= 10 and rng.random() < 0.1 else 0
    return Processing(
        zero_fill=(zoom, zoom, 1),
        resolution=float(round(rng.uniform(0.6, 1.0), 2)) if rng.random() < 0.5 else 1.0,
        apodisation=float(round(rng.uniform(0.1, 0.6), 2)) if rng.random() < 0.5 else 0.0,
        phase_filter=phase_filter,
        highpass_mm=float(round(_log_uniform(rng, *HIGHPASS_MM), 1)),
        fringes=int(rng.integers(1, 3)) if kind != "t2star" and rng.random() < 0.25 else 0,
        receive_phase=float(round(rng.uniform(0, 2), 2)),
        swi_power=int(rng.integers(SWI_POWERS[0], SWI_POWERS[1] + 1)),
        minip=int(rng.integers(2, 5)) if rng.random() < projected else 1,
        normalise=float(round(rng.uniform(0.5, 1), 2)) if rng.random() < 0.5 else 0.0,
        unsharp=float(round(rng.uniform(0.2, 1.0), 2)) if rng.random() < 0.4 else 0.0,
        unsharp_mm=float(round(rng.uniform(0.5, 1.5), 2)),
        gamma=float(round(_log_uniform(rng, 0.7, 1.4), 2)) if rng.random() < 0.3 else 1.0,
        bits=int(rng.choice((8, 10, 12, 12, 12))),
        rough_mask_mm=float(round(rng.uniform(2, 6), 1)) if rng.random() < 0.15 else 0.0,
        outside=str(rng.choice(("keep", "zero", "noise", "nan"), p=(0.7, 0.15, 0.07, 0.08))),
        empty_slices=(empty, empty if rng.random() < 0.5 else 0),
    )


def _content(kind: str, microbleeds: int, rng: np.random.Generator) -> Content:
    """An old head in every second scan. Twins only where a phase can tell them apart."""
    pairs = (microbleeds + 1) // 2 if kind in ("swi_phase", "magnitude_phase") and rng.random() < 0.5 else 0
    old = rng.random() < 0.5
    rare = rng.random(3) < (0.15, 0.2, 0.1)
    drawn = rng.integers(1, 3, 3), rng.poisson(2.5)
    return Content(
        profiles=PROFILES,
        decay=(0.5, 3.0),
        pairs=pairs,
        mineral_clusters=0.5 if old else 0.05,
        end_on_veins=8.0 if old else 4.0,
        flow_voids=4.0 if old else 1.0,
        arterial_signal=float(round(rng.uniform(*T2STAR_ARTERY), 2)) if kind == "t2star" else None,
        lacunes=int(drawn[1]) if old else 0,
        haemorrhages=int(rare[0] and old),
        siderosis=int(drawn[0][1]) if rare[1] and old else 0,
        cavernomas=int(drawn[0][2]) if rare[2] else 0,
        air_scale=float(round(rng.uniform(0.8, 1.4), 2)),
    )


def _without_mimics(content: Content) -> Content:
    """Of what a head holds, that which is true of its microbleeds, arteries and air."""
    kept = ("profiles", "decay", "arterial_signal", "air_scale", "anywhere")
    return Content(**{name: getattr(content, name) for name in kept})


def draw_kind(
    kind: str, index: int = 0, seed: int = 0, base: PhantomSpec = SMALL, chi_map: str | None = None
) -> PhantomSpec:
    """The spec of one scan of a kind; the same arguments give the same spec.

    >>> draw_kind("t2star", seed=1).outputs
    ('T2star',)

    Args:
        kind: one of KINDS.
        index: number of the scan.
        seed: seed of the cohort.
        base: gives the extent in mm, and the number of microbleeds if it has one; else five scans of six have some, 1
            to 39 in a whole head (log-uniform). Without its ``mimics``, nothing but microbleeds is put into the head.
            Of its content, ``anywhere`` counts.
        chi_map: path of a susceptibility map; the kinds of "map_" need one.

    Raises:
        ValueError: an unknown kind, or a map that is missing or not wanted.
    """
    plain = chosen([kind], bool(chi_map))[0].removeprefix("map_")
    rng = np.random.default_rng([seed, index, 22])
    zoom = 2 if rng.random() < 0.4 else 1
    geometry = _geometry(base, plain, str(chi_map or ""), zoom, rng)
    spec = subject_spec(base, index, seed, vary=True).changed(**geometry, name=kind, outputs=OUTPUTS_OF[plain])
    height = geometry["shape"][2] * geometry["spacing"][2]
    count, positive = _log_uniform(rng, 1, 1 + 39 * min(1.0, height / 140)), rng.random() < 5 / 6
    microbleeds = int(count) * positive if base.microbleeds is None else base.microbleeds
    content = replace(_content(plain, microbleeds, rng), anywhere=base.content.anywhere)
    changes = {
        "chi_map": str(chi_map or ""),
        "microbleeds": microbleeds,
        "homodyne_cutoff": float(round(_log_uniform(rng, *HOMODYNE_CYCLES_PER_MM), 3)),
        "atrophy": float(round(rng.uniform(0, 3), 2)) if rng.random() < 0.4 else 0.0,
        "skull_stripped": bool(rng.random() < 0.15),
        "content": content if base.mimics else _without_mimics(content),
        "processing": _processing(plain, zoom, geometry["shape"][2], rng),
    }
    if plain == "t2star":
        field = float(rng.choice((1.5, 3.0)))
        changes |= {
            "field_tesla": field,
            "te_ms": float(round(rng.uniform(*T2STAR_TE_MS[field]), 1)),
            "tr_ms": float(round(_log_uniform(rng, *T2STAR_TR_MS), 0)),
            "flip_deg": float(round(rng.uniform(*T2STAR_FLIP_DEG), 1)),
            "snr": float(round(_log_uniform(rng, *T2STAR_SNR), 1)),
        }
    return spec.changed(**changes)
