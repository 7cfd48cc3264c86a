"""Measures the stack against its limits: ``make bench``."""
