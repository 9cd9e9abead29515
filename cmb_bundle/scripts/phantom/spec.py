"""What a phantom is made of: the acquisition and the content, as one frozen record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

PHASE_SCALES = ("pi", "signed4096", "unsigned4095", "odd")


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

    def __post_init__(self) -> None:
        if self.phase_scale not in PHASE_SCALES:
            raise ValueError(f"phase_scale is {self.phase_scale!r}; expected one of {PHASE_SCALES}")
        if self.phase_polarity not in (-1, 1):
            raise ValueError(f"phase_polarity is {self.phase_polarity!r}; expected 1 or -1")
        for field in ("spacing", "shape", "centre_mm"):
            value = tuple(getattr(self, field))
            if len(value) != 3:
                raise ValueError(f"{field} is {value}; expected three numbers (i, j, k)")
            object.__setattr__(self, field, value)
        if min(self.spacing) <= 0 or min(self.shape) < 1:
            raise ValueError(f"spacing {self.spacing} and shape {self.shape} must be positive")
        if self.shape[2] < 3:
            raise ValueError(f"shape {self.shape} has fewer than 3 slices; lesions stay a slice away from the ends")

    def as_dict(self) -> dict:
        """The spec as plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def changed(self, **changes: object) -> PhantomSpec:
        """A copy with some attributes replaced."""
        return replace(self, **changes)


HR = PhantomSpec()
LR = PhantomSpec(name="LR", spacing=(0.8, 0.8, 2.0), shape=(320, 280, 72))
SMALL = PhantomSpec(name="SMALL", spacing=(0.8, 0.8, 2.0), shape=(192, 240, 24))
TINY = PhantomSpec(name="TINY", spacing=(1.2, 1.2, 2.0), shape=(120, 152, 10))
PRESETS = {spec.name: spec for spec in (HR, LR, SMALL, TINY)}
