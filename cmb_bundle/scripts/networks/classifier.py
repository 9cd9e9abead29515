"""The 3D convolutional network of stage 2, which separates microbleeds from mimics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .blocks import scaled_channels, side_by_side
from .dipole import DipoleEvidence
from .profile import Profile
from .surroundings import Surroundings


class PatchClassifier(nn.Module):
    """Classify patches as published: a SWI cube and a phase cube side by side along the second axis.

    Sizes for a patch of 16 x 32 x 16: zero padding 18 x 34 x 18; convolution, 32 channels, 16 x 32 x 16;
    64 channels, 14 x 30 x 14; 64 channels, 12 x 28 x 12; max pooling 6 x 14 x 6; 128 channels, 4 x 12 x 4;
    128 channels, 2 x 10 x 2; max pooling 1 x 5 x 1; flattened 640; 32; 8; 2. All convolutions are 3 x 3 x 3
    without padding and are followed by ReLU, then batch normalisation over the channels with Keras' epsilon
    of 0.001. Dropout follows the layer of 32.

    Args:
        in_channels: channels of what the first convolution sees.
        num_classes: number of logits; the last one is the microbleed.
        patch_size: voxels along the three axes, the two cubes together.
        width: multiplies the channels of the convolutions, see :func:`~.blocks.scaled_channels`.
        dropout: probability of dropout.
        average_flips: in evaluation mode, whether the logits are the means over the patch and its mirror images along
            the first axis, the last, and both. Training mirrors patches at random, so that the four differ only by
            noise; it costs four times as much.

    Raises:
        OptionError: if a patch is too small for the convolutions.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        patch_size: Sequence[int] = (16, 32, 16),
        width: float = 1.0,
        dropout: float = 0.3,
        average_flips: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.average_flips = in_channels, average_flips
        final_size = [((size - 4) // 2 - 4) // 2 for size in patch_size]
        if len(patch_size) != 3 or min(final_size) < 1:
            raise OptionError(f"patch_size is {tuple(patch_size)}; expected three numbers of voxels, each 16 or more.")
        layers: list[nn.Module] = [nn.ConstantPad3d(1, 0.0)]
        channels = in_channels
        for block in ((32, 64, 64), (128, 128)):
            for block_channels in block:
                out_channels = scaled_channels(block_channels, width)
                layers += [
                    nn.Conv3d(channels, out_channels, 3),
                    nn.ReLU(),
                    nn.BatchNorm3d(out_channels, eps=1e-3),
                ]
                channels = out_channels
            layers.append(nn.MaxPool3d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * math.prod(final_size), 32),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(32, 8),
            nn.ReLU(),
            nn.Linear(8, num_classes),
        )

    def forward(self, x: Tensor, mirrored: bool = True) -> Tensor:
        """Classify.

        Args:
            x: (B, C, s, s, s), values in [0, 1]: SWI and, if there, complement phase. With as many channels as
                ``in_channels`` it is taken as it is.
            mirrored: False leaves out the mirror images of ``average_flips``.

        Returns:
            (B, num_classes) logits; the loss and the inferer apply the softmax.
        """
        if x.shape[1] != self.in_channels:
            x = side_by_side(x)
        if self.training or not (self.average_flips and mirrored):
            return self.head(self.features(x))
        flipped = torch.cat([x.flip(axes) for axes in ((), (2,), (4,), (2, 4))])
        return self.head(self.features(flipped)).unflatten(0, (4, -1)).mean(dim=0)

    @torch.no_grad()
    def scale_logit(self, slope: float, offset: float) -> None:
        """Change the weights: microbleed's logit less the other is multiplied by ``slope``, and ``offset`` added."""
        scale_last(self.head[-1], slope, offset)


class ContextClassifier(nn.Module):
    """
    Classify patches with SWI and phase as two channels, by what stands out from its surroundings.

    Side by side, a convolution never sees SWI and phase of one place together, and only the sign of the phase tells a
    microbleed from a calcification. SWI is divided by the median of the patch, so that neither the scan's gain
    nor its shading matters; the phase is centred on 0. Sizes for a patch of 24 x 24 x 8: two convolutions of 3 x 3 x 3
    at 24 x 24 x 8, two at 12 x 12 x 8, two at 6 x 6 x 4, each followed by batch normalisation and ReLU; then the mean
    over the patch and the largest value about its centre, 32 units and two logits. Convolutions learn the sign of the
    phase poorly, so that what is known of it is given: the dipole of a small sphere, correlated with the phase
    (:class:`~.dipole.DipoleEvidence`), adds to the logit of the microbleed by a weight that is learned. So does what is
    farther away than a patch of the convolutions reaches (:class:`~.surroundings.Surroundings`), and, with it, what the
    profile of the phase says (:class:`~.profile.Profile`).

    Args:
        in_channels: 2 for SWI and complement phase, 1 for SWI alone.
        patch_size: voxels that the convolutions see along the three axes: multiples of 8, 8 and 4; one number for a
            cube.
        spacing: their size along the three axes, mm; the main field is along the third.
        channels: channels of the three pairs of convolutions.
        dropout: probability of dropout before the last layer.
        average_flips: in evaluation mode, whether the logits are the means over the patch and its mirror images along
            the first axis, the last, and both; it costs four times as much.
        surroundings_size: voxels of a patch with its surroundings, an even number more than ``patch_size`` along each
            axis; one number for a cube; None, or ``patch_size``, leaves them out.

    Raises:
        OptionError: if a patch cannot be halved as above, has other channels, or is larger than its surroundings.
    """

    def __init__(
        self,
        in_channels: int = 2,
        patch_size: int | Sequence[int] = (24, 24, 8),
        spacing: Sequence[float] = (0.6, 0.6, 2.0),
        channels: Sequence[int] = (16, 32, 64),
        dropout: float = 0.3,
        average_flips: bool = True,
        surroundings_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        core, around = list(triple(patch_size)), list(triple(surroundings_size or patch_size))
        if len(core) != 3 or any(n < m or n % m for n, m in zip(core, (8, 8, 4), strict=True)):
            raise OptionError(f"patch_size is {patch_size}; expected multiples of 8, 8 and 4 voxels.")
        if in_channels not in (1, 2):
            raise OptionError(f"in_channels is {in_channels}; expected 2 (SWI and complement phase) or 1 (SWI).")
        if len(around) != 3 or any(n < m or (n - m) % 2 for n, m in zip(around, core, strict=True)):
            raise OptionError(
                f"surroundings_size is {surroundings_size}; expected patch_size, {core}, and an even number of voxels "
                "more, or none, along each axis."
            )
        self.average_flips = average_flips
        self.patch_size, self.surroundings_size = core, around
        layers: list[nn.Module] = []
        before = 1 if in_channels == 1 else 3
        for pool, after in zip((None, (2, 2, 1), (2, 2, 2)), channels, strict=True):
            if pool:
                layers.append(nn.MaxPool3d(pool))
            for _ in range(2):
                layers += [nn.Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
                before = after
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(2 * before, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 2))
        self.dipole = DipoleEvidence(core, spacing) if in_channels == 2 else None
        if self.dipole is not None:
            self.dipole_weight = nn.Parameter(torch.tensor(1.0))
        self.surroundings = Surroundings(around, spacing) if around != core else None
        self.profile = Profile(core, spacing) if around != core and in_channels == 2 else None

    @staticmethod
    def standardise(x: Tensor) -> Tensor:
        """Express SWI as its difference from the patch's median, in units of it, and the phase in units of pi.

        Args:
            x: (B, C, ...), SWI and, if there, complement phase; 0 is background, or a missing phase.

        Returns:
            (B, 1, ...) for SWI alone, else (B, 3, ...): SWI, -1 where black; phase, paramagnetic positive; and 1 where
            the patch has a phase, 0 where it has none.
        """
        swi = x[:, :1]
        values = swi.flatten(1)
        tissue = values.masked_fill(values <= 0.1, torch.nan).nanmedian(dim=1).values.nan_to_num(0.5)
        swi = (swi / tissue.view(-1, 1, 1, 1, 1) - 1).clamp(-1, 1)
        if x.shape[1] == 1:
            return swi
        phase = x[:, 1:]
        measured = (phase > 0).to(x.dtype)
        has_phase = measured.amax(dim=(1, 2, 3, 4), keepdim=True).expand_as(phase)
        return torch.cat([swi, (1 - 2 * phase) * measured, has_phase], dim=1)

    def forward(self, x: Tensor, mirrored: bool = True) -> Tensor:
        """Classify.

        Args:
            x: (B, in_channels, *surroundings_size), values in [0, 1]; or (B, in_channels, *patch_size), as in the
                training of the convolutions, which leaves surroundings and profile out.
            mirrored: False leaves out the mirror images of ``average_flips``.

        Returns:
            (B, 2) logits, the microbleed last.

        Raises:
            ValueError: patches of another size, of which the surroundings would be left out in silence.
        """
        around = x[:, :1]
        size = list(x.shape[2:])
        if size != self.patch_size and size != self.surroundings_size:
            raise ValueError(
                f"Patches are of {size} voxels; expected surroundings_size, {self.surroundings_size}, or patch_size, "
                f"{self.patch_size}."
            )
        x = middle(x, self.patch_size)
        if self.training or not (self.average_flips and mirrored):
            logits = self._logits(x)
        else:
            flipped = torch.cat([x.flip(axes) for axes in ((), (2,), (4,), (2, 4))])
            logits = self._logits(flipped).unflatten(0, (4, -1)).mean(dim=0)
        if self.dipole is not None:
            logits = logits + _for_last(self.dipole_weight * self.dipole(x[:, 1:]))
        if self.surroundings is not None and size == self.surroundings_size:
            logits = logits + _for_last(self.surroundings(around))
        if self.profile is not None and size == self.surroundings_size:
            logits = logits + _for_last(self.profile(self.standardise(x)))
        return logits

    @torch.no_grad()
    def scale_logit(self, slope: float, offset: float) -> None:
        """As :meth:`PatchClassifier.scale_logit`; all that is added up is scaled."""
        scale_last(self.head[-1], slope, offset)
        if self.dipole is not None:
            self.dipole_weight.mul_(slope)
        if self.surroundings is not None:
            scale_last(self.surroundings.layers[-1], slope, 0.0)
        if self.profile is not None:
            scale_last(self.profile.layers[-1], slope, 0.0)

    def _logits(self, x: Tensor) -> Tensor:
        found = self.features(self.standardise(x))
        i, j, k = (size // 2 for size in found.shape[2:])
        centre = found[:, :, i - 1 : i + 1, j - 1 : j + 1, k - 1 : k + 1]
        return self.head(torch.cat([found.mean(dim=(2, 3, 4)), centre.amax(dim=(2, 3, 4))], dim=1))


def triple(size: int | Sequence[int]) -> tuple[int, ...]:
    """A size along three axes, of which one number makes a cube."""
    return (size,) * 3 if isinstance(size, int) else tuple(size)


def scale_last(layer: nn.Linear, slope: float, offset: float) -> None:
    """Multiply what a layer gives by ``slope``, then add ``offset`` to its last unit."""
    layer.weight.mul_(slope)
    layer.bias.mul_(slope)
    layer.bias[-1] += offset


def middle(patches: Tensor, size: list[int]) -> Tensor:
    """The middle of patches (B, C, i, j, k), where they are larger than ``size``; the candidate stays its middle."""
    for axis, number in enumerate(size):
        more = patches.shape[axis + 2] - number
        if more > 0:
            patches = patches.narrow(axis + 2, more // 2, number)
    return patches


def _for_last(evidence: Tensor) -> Tensor:
    """(B,) evidence to (B, 2) logits, of which it is the last."""
    return torch.stack([torch.zeros_like(evidence), evidence], dim=1)
