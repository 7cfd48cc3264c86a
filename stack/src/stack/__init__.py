"""The tool behind make."""
