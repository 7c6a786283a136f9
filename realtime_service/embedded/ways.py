"""Several ways to the same thing, tried in order.

Law: the first way that is open is taken, and a way that is not open says why; nobody has to guess what was tried.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeVar

Thing = TypeVar("Thing")
Way = Callable[[], AbstractContextManager[Thing]]
Say = Callable[[str], None]
"""Tells the person in front of the screen one line."""


class NotOpen(Exception):
    """This way cannot be gone here, and why."""


class AllClosed(Exception):
    """No way was open; the text is a list of each way's reason."""


@contextmanager
def first_open(ways: Sequence[Way[Thing]]) -> Iterator[Thing]:
    """Enter the first way that does not raise NotOpen. Raises AllClosed."""
    reasons: list[str] = []
    with ExitStack() as entered:
        for way in ways:
            try:
                thing = entered.enter_context(way())
            except NotOpen as reason:
                reasons.append(str(reason))
                continue
            yield thing
            return
    raise AllClosed("\n".join("  - " + reason.replace("\n", "\n    ") for reason in reasons))
