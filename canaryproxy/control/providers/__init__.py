"""Who is asked for a metric that is measured outside: Prometheus, Datadog, any server of JSON documents.

A provider turns a question into one number with the time at which it was true, or raises `NoAnswerError` with a sentence for
people. It never follows a redirect, believes a body over 1 MiB, or shows a secret (`fetch`). Called by `control.outside`.
"""

from __future__ import annotations

import ssl
from collections.abc import Coroutine
from typing import Any, Protocol

import aiohttp

from canaryproxy.config.metrics import OutsideMetric
from canaryproxy.config.outside import Datadog, Prometheus
from canaryproxy.control.providers.answer import NoAnswerError, Question, Sample
from canaryproxy.control.providers.datadog import DatadogProvider
from canaryproxy.control.providers.fetch import Fetch
from canaryproxy.control.providers.http import HttpProvider
from canaryproxy.control.providers.prometheus import PrometheusProvider, headers_of

__all__ = ["NoAnswerError", "Provider", "Question", "Sample", "provider_of"]


class Provider(Protocol):
    """One metric's way to its number."""

    def ask(self, question: Question) -> Coroutine[Any, Any, Sample]:
        """The number; raises NoAnswerError, and nothing else that a server could bring about."""


class _Discreet:
    """A provider whose complaints have no secret in them, also where the server's document repeats one."""

    def __init__(self, provider: Provider, fetch: Fetch) -> None:
        self._provider, self._fetch = provider, fetch

    async def ask(self, question: Question) -> Sample:
        """As the provider does."""
        try:
            return await self._provider.ask(question)
        except NoAnswerError as error:
            raise NoAnswerError(self._fetch.hidden(str(error))) from None


def provider_of(metric: OutsideMetric, session: aiohttp.ClientSession) -> Provider:
    """The provider that a metric's settings name. Raises OSError where its file of authorities cannot be used any more."""
    asked = metric.asked
    ca = None if isinstance(asked, Datadog) else asked.ca
    trusted = ssl.create_default_context(cafile=ca) if ca else True
    said = () if isinstance(asked, Datadog) else tuple(value.rpartition(" ")[2] for value in headers_of(asked).values())
    fetch = Fetch(session, metric.timeout, (*asked.secrets, *said), trusted)
    if isinstance(asked, Prometheus):
        return _Discreet(PrometheusProvider(asked, fetch, metric.fresh_for), fetch)
    return _Discreet(DatadogProvider(asked, fetch) if isinstance(asked, Datadog) else HttpProvider(asked, fetch), fetch)
