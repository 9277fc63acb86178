"""A timeout that nobody wrote is never longer than the interval that somebody did."""

from __future__ import annotations

import pytest

from canaryproxy.config.metrics import OutsideMetric
from canaryproxy.config.upstreams import Health


@pytest.mark.parametrize(
    ("written", "timeout"),
    [({}, 2), ({"interval": "1s"}, 1), ({"interval": "9s"}, 2), ({"interval": "1s", "timeout": "3s"}, 3)],
)
def test_of_a_health_check(written: dict[str, str], timeout: float) -> None:
    assert Health.model_validate({"path": "/"} | written).timeout == timeout


@pytest.mark.parametrize(
    ("written", "timeout"),
    [({}, 5), ({"interval": "2s"}, 2), ({"interval": "9s"}, 5), ({"interval": "2s", "timeout": "3s"}, 3)],
)
def test_of_an_outside_metric(written: dict[str, str], timeout: float) -> None:
    asked = {"http": {"url": "http://a/", "value": "/v"}, "min": 0.9}
    assert OutsideMetric.model_validate(asked | written).timeout == timeout
