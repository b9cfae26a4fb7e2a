"""Supernets: pure functions of (images, choices) with a replicas axis."""
