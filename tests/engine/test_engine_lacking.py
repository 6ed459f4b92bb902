"""What a scan lacks is said in words, for people."""

from __future__ import annotations

from streamrecon.engine.lacking import counted, explained


def test_nothing() -> None:
    assert counted((), ()) == explained((), ()) == ""


def test_projections_with_reasons_and_without() -> None:
    gaps = ((0, "dropped by the sender", 4), (0, "beam dump", 1))
    assert counted(((3, 5), (7, 11)), gaps) == "6 projections never came"
    text = "projections 3 to 4, 7 to 10 never came; 4 dropped by the sender; 1 beam dump"
    assert explained(((3, 5), (7, 11)), gaps) == text


def test_flats_and_darks() -> None:
    gaps = ((1, "lost by the engine", 1), (2, "dropped", 3), (2, "lost by the engine", 1))
    assert counted((), gaps) == "1 flat never came; 4 darks never came"
    assert explained((), gaps) == (
        "1 flat never came: lost by the engine; 3 darks never came: dropped; 1 dark never came: lost by the engine"
    )
    assert counted(((0, 1),), gaps[:1]) == "1 projection never came; 1 flat never came"
