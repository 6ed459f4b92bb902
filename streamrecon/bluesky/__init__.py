"""Bluesky: the documents of a run come in, and those of its reconstruction go out."""
