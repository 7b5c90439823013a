"""Names of pytree leaves, and matching them against a rules table."""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.tree_util import tree_flatten_with_path, tree_unflatten

from ist_jax.core.types import Axes, Rules


def _entry_name(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def leaf_names(tree: Any) -> list[str]:
    """Names such as 'hidden_0/kernel', in the order of `jax.tree.leaves`."""
    return ["/".join(map(_entry_name, path)) for path, _ in tree_flatten_with_path(tree)[0]]


def map_with_names(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Like `jax.tree.map`, with the leaf's name as the first argument of `f`."""
    paths, treedef = tree_flatten_with_path(tree)
    others = [treedef.flatten_up_to(other) for other in rest]
    names = ["/".join(map(_entry_name, path)) for path, _ in paths]
    return tree_unflatten(
        treedef, [f(n, leaf, *o) for n, (_, leaf), *o in zip(names, paths, *others)]
    )


def has_rule(rules: Rules, name: str) -> bool:
    """Whether the pattern of a rule matches the full name."""
    return any(re.fullmatch(pattern, name) for pattern, _ in rules)


def match(rules: Rules, name: str) -> Axes | None:
    """The value of the first rule whose pattern matches the full name (`re.fullmatch`).

    Raises:
      ValueError: no rule matches. The message names the leaf.
    """
    for pattern, value in rules:
        if re.fullmatch(pattern, name):
            return value
    known = ", ".join(repr(pattern) for pattern, _ in rules) or "none"
    raise ValueError(
        f"every leaf needs a rule, but none matches {name!r}: add one (patterns: {known})"
    )


def _matches_a_part(pattern: str, name: str) -> str:
    """The error message about a rule that matches only a part of a leaf's name.

    It suggests a rule that matches the full name.
    """
    whole = f"(?:{pattern})" if "|" in pattern else pattern
    candidates = (f".*/{whole}", f"{whole}/.*", f".*{whole}", f"{whole}.*", f".*{whole}.*")
    better = next(
        (candidate for candidate in candidates if re.fullmatch(candidate, name)), re.escape(name)
    )
    return (
        f"a rule matches the full name of a parameter (re.fullmatch), and {pattern!r} is only a "
        f"part of {name!r}: write {better!r}"
    )


def check_all_match(rules: Rules, tree: Any) -> None:
    """Checks that every rule matches the full name of a leaf of `tree`.

    Without this check, a catch-all rule at the end of the table would hide a misspelt one.

    Raises:
      ValueError: a rule matches no leaf. If it matches a part of a leaf's name, the message
        suggests a rule that matches the full name. Otherwise it names the most similar leaf.
    """
    names = leaf_names(tree)
    for pattern, _ in rules:
        if any(re.fullmatch(pattern, name) for name in names):
            continue
        if partly := [name for name in names if re.search(pattern, name)]:
            raise ValueError(_matches_a_part(pattern, partly[0]))
        nearest = ", ".join(map(repr, difflib.get_close_matches(pattern, names, 1, cutoff=0.0)))
        raise ValueError(
            f"every rule matches a parameter, and {pattern!r} matches none "
            f"(nearest is {nearest}): mend the rule, or leave it out"
        )


def leaf_shapes(tree: Any) -> dict[str, list[int]]:
    """Shapes by name, such as {'hidden_0/kernel': [64, 16]}, ready for JSON."""
    return {name: list(leaf.shape) for name, leaf in zip(leaf_names(tree), jax.tree.leaves(tree))}


def shape_difference(
    there: Mapping[str, Any], here: Mapping[str, Any], places: tuple[str, str] = ("there", "here")
) -> str:
    """The first difference between two results of `leaf_shapes`, as a message; '' if there is none.

    Args:
      there: one result.
      here: the other.
      places: what the message calls them, such as "in the file" and "in the model".
    """
    for name in sorted(there.keys() | here.keys()):
        if name not in there or name not in here:
            return f"{name} is only {places[0] if name in there else places[1]}"
        if there[name] != here[name]:
            return f"{name} has shape {there[name]} {places[0]} and {here[name]} {places[1]}"
    return ""


def tree_size(tree: Any) -> int:
    """Total number of entries of all leaves."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: Any) -> int:
    """Total bytes of all leaves."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
