"""Errors of configurations, each one line."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration cannot run. The message is one line: the rule, the value, the remedy."""


def nearest(name: str, known: Iterable[str]) -> str:
    """': did you mean X?' if `name` looks like a typo of a known name, else ''.

    If several known names have that last part, it names all of them.
    """
    known, wanted = list(known), name.lower()
    last_part = lambda name: name.rsplit(".", 1)[-1]
    # a full last part is no typo; then a similar name, or a similar last part
    for key, cutoff in ((last_part, 1.0), (str, 0.6), (last_part, 0.6)):
        keys = sorted({key(k).lower() for k in known})
        if matches := difflib.get_close_matches(wanted, keys, 1, cutoff):
            meant = [repr(k) for k in known if key(k).lower() == matches[0]]
            return f": did you mean {' or '.join(meant)}?"
    return ""
