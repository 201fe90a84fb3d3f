"""Functions of texts whose latest answers are remembered, under digests of the texts: a farm asks the same of each train.py
many times, and each reading of one takes milliseconds. Standard library only.
"""

import hashlib
from collections.abc import Callable
from functools import update_wrapper
from typing import Generic, ParamSpec, TypeVar

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

MOST = 4096
"""The most answers of one function that are kept: several for each loop of a large farm."""


class Remembered(Generic[Given, Answer]):
    """A function of texts and numbers that remembers its latest answers. Whoever knows an answer already may tell it.

    An error is no answer: it is raised anew each time. Any thread may ask.
    """

    def __init__(self, function: Callable[Given, Answer], *, most: int = MOST) -> None:
        self._function, self._most = function, most
        self._answers: dict[bytes, Answer] = {}
        update_wrapper(self, function)

    def __call__(self, *args: Given.args, **named: Given.kwargs) -> Answer:
        key = _key(args, named)
        if key in self._answers:
            return self._answers[key]
        answer = self._function(*args, **named)
        self._keep(key, answer)
        return answer

    def knows(self, *args: Given.args, **named: Given.kwargs) -> bool:
        """Whether the answer is remembered."""
        return _key(args, named) in self._answers

    def tell(self, answer: Answer, *args: Given.args, **named: Given.kwargs) -> None:
        """Remembers an answer that was found elsewhere, such as in another process."""
        self._keep(_key(args, named), answer)

    def _keep(self, key: bytes, answer: Answer) -> None:
        while len(self._answers) >= self._most:
            try:
                self._answers.pop(next(iter(self._answers)), None)
            except (RuntimeError, StopIteration):  # another thread has kept one meanwhile
                continue
        self._answers[key] = answer


def _key(args: tuple[object, ...], named: dict[str, object]) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    for part in (*args, *(item for pair in sorted(named.items()) for item in pair)):
        text = str(part).encode("utf-8", "surrogatepass")
        digest.update(b"%d " % len(text))
        digest.update(text)
    return digest.digest()
