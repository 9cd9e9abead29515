"""What a phantom is made of: the acquisition and the content, as one frozen record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from .variety import Content, Processing

PHASE_SCALES = ("pi", "signed4096", "unsigned4095", "odd")
OUTPUTS = ("SWI", "Magnitude", "Phase", "T2star")


@dataclass(frozen=True)
class PhantomSpec:
    """One simulated subject: geometry, acquisition, content and seed.

    Attributes:
        name: preset name, kept in the truth file.
        spacing: voxel size (i, j, k) in mm; slices lie along k, the direction of the main field.
        shape: voxels (i, j, k).
        centre_mm: where the middle of the grid lies; (0, 0, 0) is the middle of the brain, between the ventricles.
        oblique_deg: largest tilt of the world axes against the image axes, drawn for each subject.
        field_tesla: main field B0.
        te_ms: echo time.
        tr_ms: repetition time.
        flip_deg: flip angle.
        snr: white-matter signal over the standard deviation of the noise in one complex channel.
        homodyne_cutoff: cut-off of the phase high-pass filter in cycles/mm; 0.125 is 64 lines in 256 mm.
        phase_scale: "pi" (float, +-pi), "signed4096" (int16), "unsigned4095" (uint16) or "odd" (floats to 0.00367).
        phase_polarity: 1 if the phase grows with the field (paramagnetic veins along B0 positive), -1 if it falls.
        ghosting: amplitude in mm of a periodic head motion along i; 0 is none.
        bias: strength of the coil sensitivity's variation.
        seed: seed of everything random.
        microbleeds: number of microbleeds; None draws it from the published distribution.
        positive_share: share of subjects with at least one microbleed when the number is drawn.
        mimics: whether calcifications, cut veins and flow voids are added.
        susceptibility_scale: multiplies every susceptibility; 0 gives a phantom without any field.
        atrophy: mm by which ventricles are wider than drawn; the gap between brain and skull widens by half of it.
        skull_stripped: whether everything outside the brain is set to zero.
        with_phase: whether the phase is written; the SWI is made with it in either case.
        gap_mm: gap between the slices of a 2D acquisition; the spacing along k is slice and gap together.
        outputs: what is written, of "SWI", "Magnitude", "Phase" and "T2star"; the last is the magnitude by the name of
            a T2*-weighted scan.
        chi_map: path of a susceptibility map (NIfTI, ppm) that takes the place of the simulated anatomy; "" is none.
        content: what the head holds besides microbleeds and common mimics.
        processing: what the scanner does after the signal is acquired.
    """

    name: str = "HR"
    spacing: tuple[float, float, float] = (0.5, 0.5, 2.0)
    shape: tuple[int, int, int] = (512, 448, 72)
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    oblique_deg: float = 0.0
    field_tesla: float = 3.0
    te_ms: float = 20.0
    tr_ms: float = 27.0
    flip_deg: float = 15.0
    snr: float = 25.0
    homodyne_cutoff: float = 0.125
    phase_scale: str = "pi"
    phase_polarity: int = 1
    ghosting: float = 0.0
    bias: float = 0.25
    seed: int = 0
    microbleeds: int | None = None
    positive_share: float = 0.5
    mimics: bool = True
    susceptibility_scale: float = 1.0
    atrophy: float = 0.0
    skull_stripped: bool = False
    with_phase: bool = True
    gap_mm: float = 0.0
    outputs: tuple[str, ...] = ("SWI", "Magnitude", "Phase")
    chi_map: str = ""
    content: Content = field(default_factory=Content)
    processing: Processing = field(default_factory=Processing)

    def __post_init__(self) -> None:
        if self.phase_scale not in PHASE_SCALES:
            raise ValueError(f"phase_scale is {self.phase_scale!r}; expected one of {PHASE_SCALES}")
        if self.phase_polarity not in (-1, 1):
            raise ValueError(f"phase_polarity is {self.phase_polarity!r}; expected 1 or -1")
        for name in ("spacing", "shape", "centre_mm"):
            value = tuple(getattr(self, name))
            if len(value) != 3:
                raise ValueError(f"{name} is {value}; expected three numbers (i, j, k)")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "outputs", tuple(self.outputs))
        if not self.outputs or not set(self.outputs) <= set(OUTPUTS):
            raise ValueError(f"outputs is {self.outputs}; expected some of {OUTPUTS}")
        if not 0 <= self.gap_mm < self.spacing[2]:
            raise ValueError(
                f"gap_mm is {self.gap_mm}; expected 0 or more, and less than the {self.spacing[2]} mm along k"
            )
        if min(self.spacing) <= 0 or min(self.shape) < 1:
            raise ValueError(f"spacing {self.spacing} and shape {self.shape} must be positive")
        if self.shape[2] < 3:
            raise ValueError(f"shape {self.shape} has fewer than 3 slices; lesions stay a slice away from the ends")

    def as_dict(self) -> dict:
        """The spec as plain JSON types; what was added after the first release is left out where it is the default.

        >>> "gap_mm" in TINY.as_dict(), TINY.changed(gap_mm=0.5).as_dict()["gap_mm"]
        (False, 0.5)
        """
        later = ("gap_mm", "outputs", "chi_map", "content", "processing")
        plain = PhantomSpec()
        kept = [f.name for f in fields(self) if f.name not in later or getattr(self, f.name) != getattr(plain, f.name)]
        out = {name: _plain(asdict(self)[name]) for name in kept}
        if self.chi_map:
            out["chi_map"] = Path(self.chi_map).name
        return out

    def changed(self, **changes: object) -> PhantomSpec:
        """A copy with some attributes replaced."""
        return replace(self, **changes)


def _plain(value: object) -> object:
    """Tuples as lists, at any depth."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


HR = PhantomSpec()
LR = PhantomSpec(name="LR", spacing=(0.8, 0.8, 2.0), shape=(320, 280, 72))
SMALL = PhantomSpec(name="SMALL", spacing=(0.8, 0.8, 2.0), shape=(192, 240, 24))
TINY = PhantomSpec(name="TINY", spacing=(1.2, 1.2, 2.0), shape=(120, 152, 10))
# 2D gradient echo of the whole head: 4 mm slices and 1 mm gaps, long repetition time, magnitude alone; a common
# clinical protocol (Greenberg et al., Lancet Neurol 2009;8:165).
T2STAR = PhantomSpec(
    name="T2STAR",
    spacing=(0.9, 0.9, 5.0),
    shape=(256, 256, 28),
    te_ms=25.0,
    tr_ms=700.0,
    flip_deg=20.0,
    snr=50.0,
    gap_mm=1.0,
    outputs=("T2star",),
)
PRESETS = {spec.name: spec for spec in (HR, LR, SMALL, TINY, T2STAR)}
