"""A MONAI bundle that finds cerebral microbleeds in susceptibility-weighted MRI."""

__version__ = "0.3.0"
__all__ = ["detect"]


def __getattr__(name: str):
    """``cmb_bundle.detect``, imported at its first use: it needs PyTorch and MONAI, which take seconds."""
    if name != "detect":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .scripts.inference import detect

    return detect
