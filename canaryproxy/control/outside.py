"""What others measure about one route: each metric is asked for in its interval while a rollout is in progress.

Owned by `control.route`, which calls `merge` at each tick: what came since goes into the tick (and so into the journal), what is
due is asked for in tasks of their own. Nothing here raises, waits or holds up a tick: a server that fails, hangs or talks
nonsense is a measurement without a value, and why is said in the status and, when it begins and ends, in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import aiohttp

from canaryproxy.analysis.sample import Measurement, Tick
from canaryproxy.clock import Clock
from canaryproxy.config.metrics import OutsideMetric
from canaryproxy.config.quantities import format_duration
from canaryproxy.config.upstreams import Pool
from canaryproxy.control.lookup import Lookup
from canaryproxy.control.providers import NoAnswerError, Provider, Question, Sample, provider_of
from canaryproxy.rollout.model import EVERYBODY, Rollout

#: Questions of one route that are in hand at a time.
_AT_ONCE = 8
#: Seconds that a server's clock may be ahead of ours.
_AHEAD = 60.0
#: Different warnings of servers that are put into the log, in a controller's life.
_MOST_WARNINGS = 20

_log = logging.getLogger("canaryproxy.control")


@dataclass(slots=True)
class _Metric:
    """A metric, who is asked, and where its questions stand: `due` in monotonic seconds."""

    config: OutsideMetric
    provider: Provider | None = None
    due: float = 0.0
    task: asyncio.Task[None] | None = None
    failing: bool = False


class Outside:
    """The outside metrics of a route. `pools` are those of the configuration, for their versions."""

    def __init__(self, route: str, metrics: Mapping[str, OutsideMetric], pools: Mapping[str, Pool], clock: Clock) -> None:
        self._route, self._pools, self._clock = route, pools, clock
        self._metrics = {name: _Metric(config) for name, config in metrics.items()}
        #: With the salt of the rollout that each was asked for: the next one's canary may be another version.
        self._came: list[tuple[int, Measurement]] = []
        self._warned: set[str] = set()
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(_AT_ONCE)

    def merge(self, tick: Tick, rollout: Rollout) -> Tick:
        """The tick with what came since the last one; what is due is asked for, of the rollout as it is now."""
        if not self._metrics:
            return tick
        came, self._came = self._came, []
        if rollout.in_progress:
            self._ask_what_is_due(rollout)
        if not came:
            return tick
        now = self._clock.wall()
        return replace(
            tick, outside=tuple(one._replace(age=max(now - one.at, 0.0)) for salt, one in came if salt == rollout.salt)
        )

    async def close(self) -> None:
        """Ask no more."""
        tasks = [one.task for one in self._metrics.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _ask_what_is_due(self, rollout: Rollout) -> None:
        now = self._clock.monotonic()
        for name, metric in self._metrics.items():
            if now >= metric.due and (metric.task is None or metric.task.done()):
                metric.due = now + metric.config.interval
                metric.task = asyncio.create_task(self._measure(name, metric, rollout), name=f"metric {self._route} {name}")

    async def _measure(self, name: str, metric: _Metric, rollout: Rollout) -> None:
        """Ask for each variant that is needed, and keep what came of it."""
        both = metric.config.compares and rollout.weight_bp < EVERYBODY  # with no users, stable has nothing to say
        variants = {"canary": rollout.canary, **({"stable": rollout.stable} if both else {})}
        answers = await asyncio.gather(*(self._answer(metric, variant, pool) for variant, pool in variants.items()))
        found = dict(zip(variants, answers, strict=True))
        errors = [f"{variant}: {answer}" if both else answer for variant, answer in found.items() if isinstance(answer, str)]
        samples = {variant: answer for variant, answer in found.items() if isinstance(answer, Sample)}
        self._note(name, metric, samples, "; ".join(errors))
        at = min((sample.at for sample in samples.values()), default=self._clock.wall())
        values = {variant: sample.value for variant, sample in samples.items()}
        measured = Measurement(name, at, 0.0, values.get("stable"), values.get("canary"), "; ".join(errors))
        self._came.append((rollout.salt, measured))

    async def _answer(self, metric: _Metric, variant: str, pool: str | None) -> Sample | str:
        """The number for a variant, or why there is none."""
        try:
            async with self._places:
                provider = self._provider(metric)
                sample = await provider.ask(self._question(metric.config, variant, pool or ""))
        except NoAnswerError as error:
            return str(error)
        except Exception as error:  # a defect here, or a file that has gone: it must not end the controller
            if not metric.failing:
                _log.error("route %s: a metric cannot be measured: %r", self._route, error)
            return f"cannot be measured ({type(error).__name__})"
        ahead = sample.at - self._clock.wall()
        return sample if ahead <= _AHEAD else f"its time is {ahead:.0f} s ahead of ours; set the clocks right"

    def _provider(self, metric: _Metric) -> Provider:
        if metric.provider is None:
            metric.provider = provider_of(metric.config, self._connections())
        return metric.provider

    def _connections(self) -> aiohttp.ClientSession:
        """The one session of all of them, made when it is first needed: it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_AT_ONCE, resolver=Lookup()),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": "canaryproxy"},
            )
        return self._session

    def _question(self, config: OutsideMetric, variant: str, pool: str) -> Question:
        known = self._pools.get(pool)
        values = {
            "variant": variant,
            "pool": pool,
            "version": (known.version if known else "") or pool,
            "route": self._route,
            "interval": format_duration(config.interval),  # which is how PromQL writes them
            "window": format_duration(config.looks_back),
        }
        return Question(values, self._clock.wall(), config.interval, config.looks_back, config.fresh_for)

    def _note(self, name: str, metric: _Metric, samples: Mapping[str, Sample], error: str) -> None:
        """Into the log: that a metric began to fail, or came back; and what servers warn of, once."""
        if error and not metric.failing:
            then = "; no step follows without it" if metric.config.required and not metric.config.dry_run else ""
            _log.warning("route %s: metric %s: %s%s", self._route, name, error, then)
        elif metric.failing and not error:
            _log.warning("route %s: metric %s is measured again", self._route, name)
        metric.failing = bool(error)
        for warning in (warning for sample in samples.values() for warning in sample.warnings):
            if warning not in self._warned and len(self._warned) < _MOST_WARNINGS:
                self._warned.add(warning)
                _log.warning("route %s: metric %s: its server warns: %s", self._route, name, warning)
