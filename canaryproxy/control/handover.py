"""How the controller asks for a new generation of workers, and how the supervisor answers: eight words and a sentence.

One page of anonymous shared memory, made by the supervisor, inherited by each controller; workers never touch it. A question is
a number that stays asked until it is answered, so it survives the controller's end. As in `shared`, each word has one writer and
an answer's parts are written before its number: whoever sees the number sees the parts.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import NamedTuple

from canaryproxy.control.takeback import Takeback

_ASKED, _SERVED, _REFUSED, _GENERATION, _WORKERS, _LENGTH, _WITHDRAWN, _RECORDED = range(8)

_TEXT_AT = 64
_PAGE = 4096


class Outcome(NamedTuple):
    """What came of a question: the generation that serves and the number of its workers, or why there is none."""

    generation: int
    workers: int
    refusal: str = ""


class Handover:
    """The page, for both sides."""

    def __init__(self) -> None:
        self._bytes = memoryview(mmap.mmap(-1, _PAGE))
        self._words = self._bytes.cast("Q")
        #: Rollbacks that were asked for past a controller, and how often that has changed; as of its fork, in a controller.
        self._takebacks: tuple[Takeback, ...] = ()
        self._wanted = 1

    @property
    def takebacks(self) -> tuple[Takeback, ...]:
        """Rollbacks to begin with: those that were asked for past a controller, and are not on record."""
        return () if self._words[_RECORDED] == self._wanted else self._takebacks

    # The controller's side.

    def ask(self) -> int:
        """Ask for workers that know what is in the store now; the number of the question."""
        self._words[_ASKED] += 1
        return self._words[_ASKED]

    def outcome(self, question: int) -> Outcome | None:
        """What came of a question, or of a later one; None while there is no answer."""
        words = self._words
        if words[_SERVED] >= question:
            return Outcome(words[_GENERATION], words[_WORKERS])
        if words[_REFUSED] >= question:
            return Outcome(0, 0, bytes(self._bytes[_TEXT_AT : _TEXT_AT + words[_LENGTH]]).decode())
        return None

    def withdraw(self) -> None:
        """Have what was asked last refused, if it is not too late."""
        self._words[_WITHDRAWN] = self._words[_ASKED]

    def record(self) -> None:
        """Say that the rollbacks this controller began with are on record."""
        for takeback in self.takebacks:
            takeback.forget()
        self._words[_RECORDED] = self._wanted

    # The supervisor's side.

    def want(self, takebacks: Iterable[Takeback]) -> None:
        """Have the next controller begin with these rollbacks, and those before that are not on record."""
        self._takebacks = (*self.takebacks, *takebacks)
        self._wanted += 1

    def is_withdrawn(self, question: int) -> bool:
        """Whether nobody wants this question answered any more; question 0 as in `serve`."""
        return 0 < question <= self._words[_WITHDRAWN]

    @property
    def question(self) -> int:
        """The question that waits for an answer; 0 when none does."""
        words = self._words
        return words[_ASKED] if words[_ASKED] > max(words[_SERVED], words[_REFUSED]) else 0

    def serve(self, question: int, generation: int, workers: int) -> None:
        """Answer: all workers of this generation serve. To question 0, which nobody asked, there is nothing to answer."""
        if not question:
            return
        self._words[_GENERATION], self._words[_WORKERS] = generation, workers
        self._words[_SERVED] = question

    def refuse(self, question: int, reason: str) -> None:
        """Answer: nothing has changed, for this reason. Question 0 as above."""
        if not question:
            return
        text = reason.encode()[: _PAGE - _TEXT_AT].decode(errors="ignore").encode()
        self._bytes[_TEXT_AT : _TEXT_AT + len(text)] = text
        self._words[_LENGTH] = len(text)
        self._words[_REFUSED] = question
