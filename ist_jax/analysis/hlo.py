"""The collectives of a compiled program, read from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = ("all-to-all", "all-reduce", "all-gather", "reduce-scatter", "collective-permute")
_UNKNOWN = re.compile(r"= .*? (ragged-all-to-all|collective-broadcast)(-start)?\(")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.\-]+) \(.*\{\s*$")
_COLLECTIVE = re.compile(
    rf"= (?P<shape>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\((?P<rest>.*)$"
)
_WHILE = re.compile(r" while\(")
_LOOP_PARTS = re.compile(r"(condition|body)=%([\w.\-]+)")
_ASYNC_END = re.compile(r" async-(done|update)\(")  # its async-start is counted instead
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(
    r"(?:calls|to_apply|true_computation|false_computation|body|condition)=%([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(?P<type>[a-z]+\d+\w*|pred)\[(?P<lengths>[\d,]*)\]")
_BITS = re.compile(r"\d+")


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
      kind: its HLO name, such as 'all-to-all'.
      result_bytes: bytes of its result on one device.
      group_size: number of devices that take part.
      times: how often it runs: the product of the trip counts of all loops around it.
    """

    kind: str
    result_bytes: int
    group_size: int
    times: int = 1

    @property
    def bytes_sent(self) -> float:
        """Bytes that one device sends to others, over all `times`, by a ring algorithm."""
        others = (self.group_size - 1) / self.group_size
        factor = {
            "all-to-all": others,
            "all-gather": others,
            "all-reduce": 2 * others,
            "reduce-scatter": self.group_size - 1,
            "collective-permute": 1,
        }
        return self.times * factor[self.kind] * self.result_bytes


def _array_bytes(match: re.Match) -> int:
    bits = 8 if match["type"] == "pred" else int(_BITS.search(match["type"])[0])
    return math.prod(int(length) for length in match["lengths"].split(",") if length) * bits // 8


def _elements(shape: str) -> list[str]:
    """The types of a tuple's elements."""
    parts, depth = [""], 0
    for character in shape.strip()[1:-1]:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _result_bytes(match: re.Match) -> int:
    shape = match["shape"]
    if match["start"] and match["kind"] != "all-reduce":
        shape = _elements(shape)[1]  # (operands, results, ...)
    return sum(_array_bytes(array) for array in _ARRAY.finditer(shape))


def _group_size(rest: str) -> int:
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(iota[1])
    # meshes of this package have one axis
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]", rest):
        return math.prod(int(length) for length in re.findall(r"=(\d+)", mesh[1]))
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
        return max(pairs[1].count("{"), 1)
    raise ValueError(f"cannot read the replica groups of: {rest[:200]}")


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """(the lines of every computation, the name of the entry computation; '' without one)."""
    lines: dict[str, list[str]] = {"": []}
    entry = current = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = header["name"]
            lines[current] = []
            entry = current if header["entry"] else entry
        else:
            lines[current].append(line)
    return lines, entry


def _called(line: str) -> Iterator[tuple[str, int | None]]:
    """(computation, how often it runs) for an instruction; None: the trip count is unknown."""
    if _ASYNC_END.search(line):
        return
    if _WHILE.search(line):
        trip_count, parts = _TRIP_COUNT.search(line), dict(_LOOP_PARTS.findall(line))
        yield parts["body"], int(trip_count[1]) if trip_count else None
        yield parts["condition"], int(trip_count[1]) + 1 if trip_count else None
        return
    names = _CALLED.findall(line)
    if branches := _BRANCHES.search(line):
        names += re.findall(r"%([\w.\-]+)", branches[1])
    yield from ((name, 1) for name in names)


def collectives(text: str) -> list[Collective]:
    """All collectives in the text of a compiled program (`compiled.as_text()`).

    For a conditional, the collectives of all branches are counted.

    Raises:
      ValueError: a collective is in a loop of unknown trip count, its kind is unknown, or the text
        cannot be parsed.
    """
    computations, entry = _computations(text)
    if not entry and re.search(r"^\s*ENTRY ", text, re.MULTILINE):
        raise ValueError("this program names its computations in a way that cannot be read")

    def walk(name: str, times: int | None) -> Iterator[Collective]:
        for line in computations.get(name, ()):
            if match := _COLLECTIVE.search(line):
                if times is None:
                    raise ValueError(
                        f"a collective in a loop of unknown trip count: {line.strip()[:200]}"
                    )
                yield Collective(
                    match["kind"], _result_bytes(match), _group_size(match["rest"]), times
                )
            elif unknown := _UNKNOWN.search(line):
                raise ValueError(f"the bytes of a {unknown[1]} are not known: {line.strip()[:200]}")
            else:
                for called, trip_count in _called(line):
                    known = times is not None and trip_count is not None
                    yield from walk(called, times * trip_count if known else None)

    return list(walk(entry, 1))


def bytes_sent(text: str) -> float:
    """Bytes that one device sends in all collectives of a compiled program."""
    return sum(collective.bytes_sent for collective in collectives(text))
