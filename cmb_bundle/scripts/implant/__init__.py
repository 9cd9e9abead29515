"""Put microbleeds of known size and place into real scans."""

from .change import Change, View, change
from .implant import Implants, apply, darkening, draw_diameter, implant_microbleeds
from .places import Place, clearance, place
from .scan import Scan, noise_level, read_scan, resolution

__all__ = [
    "Change",
    "Implants",
    "Place",
    "Scan",
    "View",
    "apply",
    "change",
    "clearance",
    "darkening",
    "draw_diameter",
    "implant_microbleeds",
    "noise_level",
    "place",
    "read_scan",
    "resolution",
]
