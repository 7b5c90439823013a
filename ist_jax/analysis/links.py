"""Simulated network links: two numbers, to try slow links on one machine."""

from collections.abc import Collection
from typing import Any, NamedTuple


class Link(NamedTuple):
    """The link of one device.

    Attributes:
      bandwidth: bytes per second, in each direction.
      latency: seconds of the shortest message.
    """

    bandwidth: float
    latency: float = 0.0

    def seconds(self, num_bytes: float, messages: float) -> float:
        """The time of `messages`, sent one after another, with `num_bytes` in total."""
        return num_bytes / self.bandwidth + messages * self.latency


def num_separate(devices: Collection[Any]) -> int:
    """The number of devices that compute independently.

    The CPU devices of one process share its cores, so they count as one.
    """
    return len({d.process_index if d.platform == "cpu" else d.id for d in devices})


def check_simulated(devices: Collection[Any]) -> None:
    """Refuses to simulate a link between devices that have a real one.

    The measured time of training already includes their exchange. It cannot be subtracted, since
    methods that synchronise in every step have no separate time of a synchronisation.

    Raises:
      ValueError: there are several devices (the CPU devices of one process count as one).
    """
    if (separate := num_separate(devices)) > 1:
        raise ValueError(
            f"link.bandwidth simulates a link, and these {separate} devices exchange over a real "
            "one, whose time is measured already: leave it out, or use one process and "
            "placement=looped"
        )
