"""A network link between devices, as two numbers, to try slow links on one machine."""

from typing import NamedTuple


class Link(NamedTuple):
    """The link of one device.

    Attributes:
      bandwidth: bytes per second, in each direction.
      latency: seconds that the shortest message takes.
    """

    bandwidth: float
    latency: float = 0.0

    def seconds(self, num_bytes: float, messages: float) -> float:
        """The time of `messages`, sent one after another, that have `num_bytes` in all."""
        return num_bytes / self.bandwidth + messages * self.latency
