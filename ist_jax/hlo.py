"""Collectives of a compiled program, read from its HLO text."""

import math
import re
from typing import NamedTuple

_KINDS = ("all-to-all", "all-reduce", "all-gather", "reduce-scatter", "collective-permute")
_LINE = re.compile(rf"= (?P<shape>[^=]*?) (?P<kind>{'|'.join(_KINDS)})(-start)?\((?P<rest>.*)$")
_ARRAY = re.compile(r"\b(?P<type>[a-z]+\d+|pred)\[(?P<lengths>[\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation; one inside a loop counts once here, whatever the trip count.

    Attributes:
      kind: such as 'all-to-all'.
      result_bytes: bytes of the result on one device.
      group_size: devices that take part.
    """

    kind: str
    result_bytes: int
    group_size: int

    @property
    def bytes_sent(self) -> float:
        """Bytes that one device sends to others, with the bandwidth-optimal (ring) algorithm of each kind."""
        others = (self.group_size - 1) / self.group_size
        factor = {
            "all-to-all": others,
            "all-gather": others,
            "all-reduce": 2 * others,
            "reduce-scatter": self.group_size - 1,
            "collective-permute": 1,
        }
        return factor[self.kind] * self.result_bytes


def _bytes(shape: str) -> int:
    total = 0
    for match in _ARRAY.finditer(shape):
        bits = 8 if match["type"] == "pred" else int(re.sub(r"\D", "", match["type"]))
        lengths = [int(length) for length in match["lengths"].split(",") if length]
        total += math.prod(lengths) * bits // 8
    return total


def _group_size(rest: str) -> int:
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]", rest):  # of one axis, as this package makes them
        return math.prod(int(length) for length in re.findall(r"=(\d+)", mesh[1]))
    raise ValueError(f"cannot read the replica groups of: {rest[:200]}")


def collectives(text: str) -> list[Collective]:
    """All collectives in the text of a compiled program (`compiled.as_text()`)."""
    found = (_LINE.search(line) for line in text.splitlines())
    return [Collective(m["kind"], _bytes(m["shape"]), _group_size(m["rest"])) for m in found if m]


def bytes_sent(text: str) -> float:
    """Bytes that one device sends in all collectives of a program without loops."""
    return sum(collective.bytes_sent for collective in collectives(text))
