"""Simulated network links: two numbers, to try slow links on one machine."""

from typing import NamedTuple


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
