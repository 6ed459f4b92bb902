"""Measurements: every figure in docs/performance.md comes from a command here."""
