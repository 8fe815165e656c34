"""The profile in text and as a page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hasten.report import profile_page, profile_text


@pytest.mark.parametrize("overhead", [0.733, 0.999])
def test_no_overhead_is_called_a_negative_cost(example: Any, overhead: float) -> None:
    result = example.profile()
    result["steps"]["overhead"] = overhead
    page = re.sub(r"<script>.*?</script>", "", profile_page.render(result), flags=re.DOTALL)
    for text in (profile_text.summary(result, None), page.replace("\u00a0", " ")):
        told = re.search(r"[Mm]arks\s+cost\s+nothing\s+that\s+shows\s+\(timings\s+differ\s+by\s+(\S+) %\)", text)
        assert told is not None
        assert float(told[1]) == pytest.approx(100 * (1 - overhead), rel=0.02)
        assert "\u2212" not in text
    result["steps"]["overhead"] = 1.031
    assert "marks cost +3.1 %" in profile_text.summary(result, None)


def test_charts_of_a_profile_answer(example: Any) -> None:
    page = profile_page.render(example.profile()).replace("\u00a0", " ")
    assert page.count("<title>evaluation 2: 20.0 ms</title>") == 2  # wide and narrow
    assert page.count("<title>after 100 ms: 3.15 MB</title>") == 2
