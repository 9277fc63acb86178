"""`start` with a new version, and with --wait: what is asked, what a job reads, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from played_admin import Command, Played, done, route

from canaryproxy.cli import deploy, follow
from canaryproxy.cli.progress import End, Job, place

pytest_plugins = ["played_admin"]

START, STATUS, LOG = "POST /api/v1/routes/shop/start", "GET /api/v1/routes/shop", "GET /api/v1/routes/shop/decisions?limit=500"
DEPLOY = ("start", "shop", "--canary", "http://10.0.0.7:8000", "--version", "v2")
OURS, BEGUN = "1f", {"salt_id": "aa", "started_at": "2026-01-02T03:04:05.000Z"}


def deployed(state: str = "started", id: str = OURS, detail: str = "", **changed: Any) -> dict[str, Any]:
    """The route's status, with what it says of the deploy."""
    return route(**{**BEGUN, "deploy": {"id": id, "state": state, "detail": detail}, **changed})


def asked(**changed: Any) -> dict[str, Any]:
    """The answer to a deploy."""
    return deployed("handing_over", **{"applied_by": 2, "workers": 2, "already": None, **changed})


class Script(dict[str, Any]):
    """Answers in their order, the last one again and again."""

    def get(self, key: str, default: Any = None) -> Any:
        answers = super().get(key)
        if not isinstance(answers, list):
            return answers or default
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "REFRESH", 0.001)
    monkeypatch.setattr(follow, "_SOON", 0.001)
    monkeypatch.setattr("canaryproxy.cli.deploy.time.sleep", lambda seconds: None)


def play(api: Played, *statuses: Any, start: Any = None, log: Any = ()) -> None:
    """The API's answers to a job."""
    played = [status if isinstance(status, tuple) else (200, status) for status in statuses]
    api.answers = Script({START: start or (202, asked()), STATUS: played, LOG: (200, {"decisions": list(reversed(log))})})


def row(kind: str, sentence: str = "", at: float = 2e9, **data: Any) -> dict[str, Any]:
    return {"id": 1, "kind": kind, "sentence": sentence or kind, "at": at, "data": data}


# --- What is asked ---


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["--canary", "http://a:1", "--canary", "unix:/b"], {"canary": ["http://a:1", "unix:/b"]}),
        (["--canary", "v2", "--reason", "weekly"], {"canary": "v2", "reason": "weekly"}),
        (["--canary", "https://a", "--version", "2.1"], {"canary": ["https://a"], "version": "2.1"}),
    ],
)
def test_a_deploy_names_servers_or_a_pool(operator: Command, api: Played, words: list[str], body: dict[str, Any]) -> None:
    play(api, deployed(step=1))
    ran = operator("start", "shop", *words)
    assert (ran.code, ran.out, ran.err) == (0, "shop: started: step 1 of 4: 5% of users on v2\n", "")
    assert api.asked[0] == (START, body)


def test_what_cannot_be_meant(operator: Command, api: Played) -> None:
    ran = operator("start", "shop", "--canary", "10.0.0.7", "--canary", "http://b")
    assert (ran.code, "'10.0.0.7' is not a URL" in ran.err) == (2, True)
    assert "is not a duration" in operator("start", "shop", "--wait", "--timeout", "soon").err
    assert api.asked == []


def test_stable_already(operator: Command, api: Played) -> None:
    stable = {"pool": "v2", "version": "v2"}
    play(api, start=(200, asked(already="stable", stable=stable)))
    ran = operator(*DEPLOY, "--wait")
    assert (ran.code, ran.out) == (0, "v2 is stable already: nothing to do\n")


def test_a_deploy_is_asked_for_again_while_another_one_is_handed_over(operator: Command, api: Played) -> None:
    busy = {"error": {"code": "busy", "message": "a hand-over is going on", "hint": ""}}
    play(api, deployed(phase="promoted"), start=[(503, busy), (503, busy), (202, asked())])
    assert operator(*DEPLOY, "--wait").code == 0
    assert [what for what, _ in api.asked].count(START) == 3


def test_a_refusal_says_why(operator: Command, api: Played) -> None:
    error = {"code": "illegal_transition", "message": "version v2 is stable now", "hint": "give it another name"}
    play(api, start=(409, {"error": error}))
    ran = operator(*DEPLOY, "--wait")
    assert (ran.code, ran.err) == (1, "canaryproxy: version v2 is stable now; give it another name\n")


def test_a_proxy_that_is_not_there_is_asked_for_a_while(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "_UNREACHABLE", 0.0)
    assert command(*DEPLOY, "--admin", "http://127.0.0.1:1", CANARYPROXY_TOKEN="x").code == 3


# --- How it is followed ---


def test_it_is_followed_to_the_promotion(operator: Command, api: Played) -> None:
    waiting = deployed("pending", detail="http://10.0.0.7:8000 does not accept connections")
    stable = {"pool": "v2"}
    play(
        api,
        *(deployed("handing_over", detail="new workers are on their way"), waiting, waiting, deployed(step=1), deployed(step=1)),
        *((502, "starting"), deployed(phase="baking", weight_percent=100.0), deployed(phase="promoted", stable=stable)),
    )
    ran = operator(*DEPLOY, "--wait")
    assert ran.code == 0
    assert [line.partition("shop: ")[2] for line in ran.out.splitlines()] == [
        "waiting: new workers are on their way",
        "waiting: http://10.0.0.7:8000 does not accept connections",
        "step 1 of 4: 5% of users on v2",
        "bake: 100% of users on v2",
        "promoted: 100% on v2, which is stable now",
    ]
    assert ran.err == "canaryproxy: the proxy does not answer (answered 502, but not as the admin API does); waiting for it\n"


def test_a_rollback_is_exit_code_1_and_says_why(operator: Command, api: Played) -> None:
    play(api, deployed(), deployed(phase="rolled_back", reason="canary 8/402 failed (2 %)"))
    ran = operator(*DEPLOY, "--wait")
    assert (ran.code, ran.err) == (1, "shop: rolled back: canary 8/402 failed (2 %)\n")


@pytest.mark.parametrize("state", ["refused", "called_off"])
def test_what_was_never_started(operator: Command, api: Played, state: str) -> None:
    play(api, deployed(state, detail="nobody there", phase="idle"))
    ran = operator(*DEPLOY)
    assert (ran.code, ran.err) == (1, "shop: not started: nobody there\n")


def test_a_time_that_is_over_leaves_the_rollout_alone(operator: Command, api: Played) -> None:
    play(api, deployed(phase="paused", reason="p95 is up"))
    ran = operator(*DEPLOY, "--wait", "--timeout", "20ms")
    assert (ran.code, ran.err) == (2, "")
    assert ran.out.splitlines()[-2:] == [
        "shop: no end within 20ms, and it goes on: paused at step 2 of 4: 5% of users on v2; p95 is up",
        "shop: canaryproxy status --watch shop shows it, canaryproxy rollback shop takes it back",
    ]


def test_ctrl_c_leaves_the_rollout_alone(operator: Command, api: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> End:
        raise KeyboardInterrupt

    play(api)
    monkeypatch.setattr(follow.Follower, "follow", interrupt)
    ran = operator(*DEPLOY, "--wait")
    assert (ran.code, ran.err) == (130, "canaryproxy: the rollout goes on; to take it back: canaryproxy rollback shop\n")
    assert len(api.asked) == 1


def test_programs_get_a_line_for_each_change_and_the_end(operator: Command, api: Played) -> None:
    play(api, deployed(step=1), deployed(step=1, held=3), deployed(), deployed(phase="rolled_back", reason="slow"))
    ran = operator(*DEPLOY, "--wait", "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, [line["phase"] for line in lines]) == (1, ["progressing", "progressing", "rolled_back"])
    assert (lines[-1]["result"], lines[-1]["message"]) == ("rolled_back", "rolled back: slow")


def test_a_plain_start_can_be_followed_too(operator: Command, api: Played) -> None:
    play(api, deployed(id="other"), deployed(id="other", phase="promoted"), start=(200, done(**BEGUN)))
    assert operator("start", "shop", "--wait").code == 0


def test_what_came_after_it_is_found_in_the_log(operator: Command, api: Played) -> None:
    log = [row("deploy", deploy=OURS, state="asked"), row("start"), row("deploy", "deploy of v3", deploy="2f", state="asked")]
    play(api, deployed(), deployed("handing_over", id="2f"), deployed(id="2f", salt_id="bb"), log=log)
    ran = operator(*DEPLOY, "--wait")
    assert (ran.code, ran.err) == (1, "shop: superseded by a deploy of v3\n")


def test_what_nobody_knows_of_any_more(operator: Command, api: Played) -> None:
    play(api, deployed(), deployed(id="", phase="idle"))
    ran = operator(*DEPLOY, "--wait")
    assert (ran.code, "its log does not say why" in ran.err) == (1, True)


# --- The end by the log ---

MINE = row("deploy", deploy=OURS, state="asked")


@pytest.mark.parametrize(
    ("rows", "end"),
    [
        ([MINE], None),
        ([MINE, row("start")], None),
        ([MINE, row("start"), row("bake"), row("promoted", "yes"), row("deploy", deploy="2f")], (0, "promoted", "yes")),
        ([MINE, row("start"), row("rollback", "no"), row("retry")], (1, "rolled_back", "no")),
        ([MINE, row("deploy", "undone", deploy=OURS, state="undone")], (1, "undone", "undone")),
        ([MINE, row("deploy", "of v3", deploy="2f", state="asked")], (1, "superseded", "superseded by a of v3")),
        ([row("promoted", "an earlier one"), MINE], None),
        ([row("promoted", "another one")], None),
    ],
)
def test_the_end_of_a_deploy(rows: list[dict[str, Any]], end: tuple[int, str, str] | None) -> None:
    assert Job("shop", OURS).read(list(reversed(rows))) == end


def test_the_end_of_a_rollout_without_a_deploy() -> None:
    job = Job("shop", None, ("aa", "2026-01-02T03:04:05.000Z"))
    at = 1767323045.0
    before, mine = row("promoted", at=at - 9), row("start", at=at + 0.0004)
    assert job.read([mine, before]) is None
    assert job.read([row("restart", "started anew", at + 5), mine, before]) == (1, "superseded", "superseded: started anew")
    assert job.read([row("promoted", at=at + 5), mine, before]) == (0, "promoted", "promoted")


def test_a_rollout_that_was_started_again_is_not_ours() -> None:
    job = Job("shop", OURS)
    assert job.look(deployed()) is None
    with pytest.raises(LookupError):
        job.look(deployed(salt_id="bb"))
    with pytest.raises(LookupError):
        job.look(deployed(phase="idle"))


def test_where_it_stands_says_what_it_waits_for() -> None:
    job = Job("shop", OURS, ("aa", ""))
    assert place(deployed(gate="confirm_step", frozen=True), job) == (
        "step 2 of 4: 5% of users on v2, waits for confirm step, frozen while stable itself is bad"
    )
    assert place(deployed("pending"), Job("shop", OURS)) == "waiting: for the servers of the canary"


def test_on_a_terminal_it_is_one_calm_picture(api: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    status = deployed(held=12)
    console = Console(width=120, record=True)
    console.print(follow._view(status, place(status, Job("shop", OURS, ("aa", "")))))
    text = console.export_text()
    for words in ("shop", "step 2 of 4: 5% of users on v2", "held for 12 of 600 s", "951.2", "2.00%", "1,043 ms", "inconclusive"):
        assert words in text
