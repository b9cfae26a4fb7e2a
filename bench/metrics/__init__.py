"""Measurements taken at one instant of a search; none of them changes it."""
