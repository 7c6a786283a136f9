"""How a command ends."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """The words or the settings are wrong; nothing was done. argparse uses the same."""
    TIMED_OUT = 3
    """`watch --timeout`: the time was up first."""
    WRONG_TOPOLOGY = 4
    """`serve`: RabbitMQ is set up in a way in which events would be lost; waiting does not repair it."""
    INTERRUPTED = 130
    """Ctrl-C, as shells report it (128 + SIGINT)."""


class Failed(Exception):
    """The command could not do it; the text says why, and what to do, in one line."""

    def __init__(self, text: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(text)
        self.code = code
