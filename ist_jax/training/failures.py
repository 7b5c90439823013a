"""Workers that are lost in a round: dead, or too slow to wait for."""

from typing import NamedTuple

import numpy as np


class Failures(NamedTuple):
    """Which workers are lost when. What they trained in that round reaches nobody; in the next they are there again.

    Attributes:
      rate: the probability that a worker is lost in a round, drawn for each alone.
      schedule: (round, worker) pairs, rounds counted from 1 as in the records.
    """

    rate: float = 0.0
    schedule: tuple[tuple[int, int], ...] = ()

    def alive(self, seed: int, round: int, num_workers: int) -> np.ndarray:
        """bool[S]: who is there in `round`; the same on every host and after every resume."""
        draw_S = np.random.default_rng([seed, round, 0x105D]).random(num_workers)
        scheduled = [worker for at, worker in self.schedule if at == round]
        return (draw_S >= self.rate) & ~np.isin(np.arange(num_workers), scheduled)
