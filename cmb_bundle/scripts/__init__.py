"""Transforms, networks, engines and reports that the configs of the bundle name."""
