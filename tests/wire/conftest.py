"""Hypothesis without its clock: these tests share their cores with others."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
