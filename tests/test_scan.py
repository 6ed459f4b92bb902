"""What a scan is called."""

from __future__ import annotations

import pytest

from streamrecon.scan import scan_label


@pytest.mark.parametrize(
    ("title", "sample", "label"),
    [
        ("scan 12", "Tooth", "scan 12, Tooth"),
        ("tooth, wet", "Tooth", "tooth, wet"),
        ("24737", "unknown", "24737"),
        ("24737", "", "24737"),
    ],
)
def test_the_sample_is_named_where_the_title_does_not(title: str, sample: str, label: str) -> None:
    assert scan_label(title, sample) == label
