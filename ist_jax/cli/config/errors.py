"""Errors of configurations, each one line."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration cannot run. The message is one line: the rule, the value, the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """': did you mean X?' if `name` looks like a typo of a known name, else ''."""
    known = list(known)
    full = {k.lower(): k for k in known}
    last_part = {k.rsplit(".", 1)[-1].lower(): k for k in known}
    for names in (full, last_part):
        if matches := difflib.get_close_matches(name.lower(), names, 1):
            return f": did you mean {names[matches[0]]!r}?"
    return ""
