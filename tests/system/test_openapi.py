"""The admin API against its own description: made-up requests, good and bad ones, to the running proxy (schemathesis)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import requests
import schemathesis
from harness import Product
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

pytestmark = pytest.mark.system

#: What every answer must pass.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
#: Requests of each path, of good ones and of bad ones.
EXAMPLES = 5
#: Never ends; `test_admin_events` has it.
STREAM = "/api/v1/events"
#: Whatever its body is.
NEVER_REFUSED = "/api/v1/routes/{route}/rollback"
EXISTING = {"route": "shop", "pool": "v1"}


class Explorer:
    """Asks, and keeps the statuses of the answers by method and path."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.headers = url, {"Authorization": f"Bearer {token}"}
        self.session = requests.Session()
        self.seen: dict[tuple[str, str], set[int]] = {}

    def explore(self, operation: Any, mode: GenerationMode) -> None:
        """Some requests of one path; an answer that is not as described raises."""
        statuses = self.seen.setdefault((operation.method.upper(), operation.path), set())

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), existing=st.booleans())
        def ask(case: Any, existing: bool) -> None:
            if existing:
                case.path_parameters |= {name: value for name, value in EXISTING.items() if name in case.path_parameters}
            checked = [*CHECKS, checks.negative_data_rejection] if operation.path != NEVER_REFUSED else CHECKS
            answer = case.call_and_validate(base_url=self.url, session=self.session, headers=self.headers, checks=checked)
            statuses.add(answer.status_code)

        ask()


def explore(url: str, document: dict[str, Any], token: str) -> dict[tuple[str, str], set[int]]:
    """The statuses that made-up requests got."""
    explorer = Explorer(url, token)
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path == STREAM:
            continue
        explorer.explore(operation, GenerationMode.POSITIVE)
        if operation.body or operation.query:
            explorer.explore(operation, GenerationMode.NEGATIVE)
    explorer.session.close()
    return explorer.seen


async def test_it_answers_as_it_is_described(product: Product) -> None:
    product.configure({"metrics": {"signup": {"goal": "posted"}}}, admin={"rate_limit": {"changes": 0}})
    await product.start()
    document = await asyncio.to_thread(product.admin.get, "/api/v1/openapi.json")
    seen = await asyncio.to_thread(explore, product.admin.url, document, product.token_file.read_text().strip())
    assert all(200 in statuses for (method, _), statuses in seen.items() if method == "GET")
    assert seen["POST", NEVER_REFUSED] <= {200, 401, 404}
    refusals = set().union(*seen.values()) - {200}
    assert refusals >= {400, 401, 404, 409, 412}
