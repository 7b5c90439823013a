"""A network link between the devices, by its two numbers, so that slow ones can be tried on one machine."""

from typing import NamedTuple


class Link(NamedTuple):
    """What a device sends and receives through.

    Attributes:
      bandwidth: bytes per second, each way.
      latency: seconds that a message takes however short it is.
    """

    bandwidth: float
    latency: float = 0.0

    def seconds(self, num_bytes: float, messages: float) -> float:
        """The time of `messages` one after another that carry `num_bytes` together."""
        return num_bytes / self.bandwidth + messages * self.latency
