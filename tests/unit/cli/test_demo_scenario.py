"""The demo's configuration is one that the proxy accepts, for any folder and port."""

from __future__ import annotations

import yaml

from canaryproxy.cli.demo.scenario import ANSWER_LIMIT, ROUTE, SCENARIOS, WEIGHTS, config_text
from canaryproxy.cli.run import Scenario
from canaryproxy.config.schema import Config


def test_the_configuration_is_valid() -> None:
    config = Config.model_validate(yaml.safe_load(config_text("/tmp/demo {1, #2}", 0, 8001, 8002)))
    assert [step.weight for step in config.routes[ROUTE].rollout.rungs] == [weight * 100 for weight in WEIGHTS]
    assert config.timeouts.response_head == ANSWER_LIMIT
    assert config.admin.token_file == "/tmp/demo {1, #2}/token"


def test_the_command_line_knows_the_same_scenarios() -> None:
    assert {scenario.value for scenario in Scenario} == set(SCENARIOS)
