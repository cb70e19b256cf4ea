"""Fakes that behave."""
