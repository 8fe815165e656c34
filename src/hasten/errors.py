"""What hasten raises on purpose: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HastenError(Exception):
    """A run that failed; the command line prints its one line and exits with 1."""

    exit_code = 1


class BadInput(HastenError, ValueError):
    """Input that can't be used as it is; the command line prints its one line and exits with 2."""

    exit_code = 2


class MissingExtra(HastenError, ImportError):
    """An optional dependency is not installed; names the extra that brings it."""

    exit_code = 2

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; pip install 'hasten[{extra}]'")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when something close is known, else the list of what is."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def shown(value: object, limit: int = 80) -> str:
    """``repr`` of something foreign, short enough for a one-line message."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"
