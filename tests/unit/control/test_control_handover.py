"""The page between controller and supervisor."""

from __future__ import annotations

from canaryproxy.control.handover import Handover, Outcome


def test_a_question_stays_asked_until_it_is_answered() -> None:
    page = Handover()
    assert page.question == 0
    first = page.ask()
    assert (page.question, page.outcome(first)) == (first, None)
    page.serve(first, generation=3, workers=2)
    assert (page.question, page.outcome(first)) == (0, Outcome(3, 2))
    second = page.ask()
    assert (page.question, page.outcome(second)) == (second, None)
    page.refuse(second, "no room: è")
    assert (page.question, page.outcome(second)) == (0, Outcome(0, 0, "no room: è"))
    third = page.ask()
    page.refuse(third, "no")
    assert page.outcome(third) == Outcome(0, 0, "no")


def test_a_reload_that_nobody_asked_for_answers_nothing() -> None:
    page = Handover()
    page.serve(page.ask(), 2, 1)
    asked = page.ask()
    page.serve(0, 3, 1)
    page.refuse(0, "x")
    assert (page.question, page.outcome(asked)) == (asked, None)


def test_a_long_reason_is_cut_at_a_whole_character() -> None:
    page = Handover()
    asked = page.ask()
    page.refuse(asked, "€" * 5000)
    outcome = page.outcome(asked)
    assert outcome is not None
    assert outcome.refusal == "€" * ((4096 - 64) // 3)


def test_what_was_asked_last_can_be_withdrawn() -> None:
    page = Handover()
    first = page.ask()
    assert not page.is_withdrawn(first)
    page.withdraw()
    assert page.is_withdrawn(first)
    assert not page.is_withdrawn(0), "a reload that nobody asked for"
    page.refuse(first, "withdrawn")
    assert not page.is_withdrawn(page.ask())
