"""Answers that stay true until another record is added."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class RememberedAnswers:
    """Answers found since the last record. Any thread may ask."""

    def __init__(self, version: Callable[[], int]) -> None:
        """`version` returns a number that changes with every record, after the record can be read."""
        self._version = version
        self._lock = threading.RLock()
        self._of, self._answers = -1, dict[tuple[str, ...], Any]()

    def answer(self, question: tuple[str, ...], find: Callable[[], Answer]) -> Answer:
        """What `find` returned since the last record, else what it returns now."""
        with self._lock:
            version = self._version()
            if self._of != version:
                self._of, self._answers = version, {}
            known = self._answers
            if question not in known:
                known[question] = find()
            answer: Answer = known[question]
            return answer
