"""A MONAI bundle that finds cerebral microbleeds in susceptibility-weighted MRI."""

__version__ = "0.2.0"
