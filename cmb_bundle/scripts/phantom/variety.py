"""What varies between heads and between scanners: two frozen records that a PhantomSpec carries.

The defaults change nothing; the ranges that scans are drawn from, with their sources, are in kinds.py.
"""

from __future__ import annotations

from dataclasses import dataclass

PHASE_FILTERS = ("homodyne", "gaussian", "none")
PROFILES = ("solid", "shell", "cloud", "lobed")
OUTSIDES = ("keep", "zero", "noise", "nan")


def _one_of(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; expected one of {allowed}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; expected {low} to {high}")


@dataclass(frozen=True)
class Content:
    """What a head holds besides common mimics and round microbleeds.

    Attributes:
        profiles: profiles that microbleeds are drawn from, of "solid", "shell", "cloud" and "lobed"; () is solid with
            the small companions of old.
        diameter_range_mm: smallest and largest apparent diameter.
        decay: least and most that the decay within a microbleed is multiplied with, log-uniform.
        pairs: number of calcifications made as twins of a microbleed: of the same size, profile, decay and choice of
            places, and of the opposite susceptibility. Twins go to the first microbleeds.
        pairs_alike: whether a twin's SWI is made as if it were paramagnetic, so that the phase alone tells it from a
            microbleed; else the phase mask tells them apart too, by its ring about the twin.
        anywhere: share of microbleeds that may lie anywhere in the tissue: most often against a vein, but also at the
            surface, at the midline, above air and in nuclei other than the pallidum. The others keep away from all of
            these.
        mineral_clusters: probability, for each side, of mineralised pallidum and of mineralised choroid plexus.
        end_on_veins: mean number of cortical veins that run along the slice normal in sulci.
        flow_voids: mean number of flow voids in fluid beyond the common ones.
        arterial_signal: signal of large arteries against white matter; None is fresh blood, 0 a void.
        lacunes: number of lacunes.
        siderosis: number of patches of superficial siderosis.
        haemorrhages: number of large old haemorrhages.
        cavernomas: number of cavernomas.
        air_scale: size of the air cells at the skull base against the usual.
    """

    profiles: tuple[str, ...] = ()
    diameter_range_mm: tuple[float, float] = (1.0, 10.0)
    decay: tuple[float, float] = (1.0, 1.0)
    pairs: int = 0
    pairs_alike: bool = True
    anywhere: float = 0.0
    mineral_clusters: float = 0.0
    end_on_veins: float = 0.0
    flow_voids: float = 0.0
    arterial_signal: float | None = None
    lacunes: int = 0
    siderosis: int = 0
    haemorrhages: int = 0
    cavernomas: int = 0
    air_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("profiles", "diameter_range_mm", "decay"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for profile in self.profiles:
            _one_of("profiles", profile, PROFILES)
        _within("anywhere", self.anywhere, 0, 1)
        _within("mineral_clusters", self.mineral_clusters, 0, 1)
        _within("air_scale", self.air_scale, 0.5, 1.6)
        if not 0 < self.diameter_range_mm[0] < self.diameter_range_mm[1]:
            raise ValueError(f"diameter_range_mm is {self.diameter_range_mm}; expected two growing numbers of mm")
        if not 0 < self.decay[0] <= self.decay[1]:
            raise ValueError(f"decay is {self.decay}; expected two positive numbers, the smaller first")


@dataclass(frozen=True)
class Processing:
    """What a scanner does with the acquired signal.

    Attributes:
        zero_fill: factor by which k-space is filled with zeros, one for each axis; the written matrix has so many more
            voxels.
        resolution: share of k-space along j that is acquired; the rest is zero.
        apodisation: width of the cosine taper at the edge of k-space, as a share of its radius.
        phase_filter: "homodyne", "gaussian" (high-pass after unwrapping) or "none", of the written phase.
        highpass_mm: standard deviation of the Gaussian that the unwrapped phase is smoothed with.
        fringes: number of open-ended fringe lines, as a bad combination of coils leaves them.
        receive_phase: radians of smooth phase that the coils add across the head.
        swi_power: power of the phase mask.
        minip: slices of the sliding minimum intensity projection of the SWI; 1 is none.
        normalise: share of the coil sensitivity that is divided out of magnitude and SWI.
        unsharp: share of the unsharp mask added to magnitude and SWI.
        unsharp_mm: standard deviation of the blur in the unsharp mask.
        gamma: power of the grey values.
        bits: depth of the stored grey values.
        rough_mask_mm: how far a skull-stripping mask strays from the brain's surface; 0 strips nothing.
        outside: what stands outside the head, or outside the mask where the skull is stripped: "keep", "zero", "noise"
            or "nan".
        empty_slices: slices at the first and the last end that hold nothing, as a partial coverage leaves them.
    """

    zero_fill: tuple[int, int, int] = (1, 1, 1)
    resolution: float = 1.0
    apodisation: float = 0.0
    phase_filter: str = "homodyne"
    highpass_mm: float = 6.0
    fringes: int = 0
    receive_phase: float = 0.0
    swi_power: int = 4
    minip: int = 1
    normalise: float = 0.0
    unsharp: float = 0.0
    unsharp_mm: float = 1.0
    gamma: float = 1.0
    bits: int = 12
    rough_mask_mm: float = 0.0
    outside: str = "keep"
    empty_slices: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name in ("zero_fill", "empty_slices"):
            object.__setattr__(self, name, tuple(int(v) for v in getattr(self, name)))
        _one_of("phase_filter", self.phase_filter, PHASE_FILTERS)
        _one_of("outside", self.outside, OUTSIDES)
        for name, low, high in (
            ("resolution", 0.3, 1),
            ("apodisation", 0, 1),
            ("swi_power", 1, 8),
            ("minip", 1, 16),
            ("normalise", 0, 1),
            ("gamma", 0.2, 5),
            ("bits", 6, 16),
        ):
            _within(name, getattr(self, name), low, high)
        if len(self.zero_fill) != 3 or min(self.zero_fill) < 1:
            raise ValueError(f"zero_fill is {self.zero_fill}; expected three whole numbers, 1 or more")
        if len(self.empty_slices) != 2 or min(self.empty_slices) < 0:
            raise ValueError(f"empty_slices is {self.empty_slices}; expected two whole numbers, 0 or more")
