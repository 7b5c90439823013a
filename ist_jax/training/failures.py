"""Workers that fail in a round: dead, or too slow to wait for."""

from typing import NamedTuple

import numpy as np


class Failures(NamedTuple):
    """Which workers fail in which round.

    What a failed worker trained reaches nobody. It takes part again in the next round.

    Attributes:
      rate: probability that a worker fails in a round, drawn independently for each.
      schedule: further failures as (round, worker) pairs; rounds count from 1, as in the records.
    """

    rate: float = 0.0
    schedule: tuple[tuple[int, int], ...] = ()

    def weights(self, seed: int, round: int, num_workers: int) -> np.ndarray:
        """float32[S]: 1 for a worker that takes part in `round`, 0 for one that fails.

        The draw depends on the arguments alone, so every host and every resumed run agree on it.
        """
        draw_S = np.random.default_rng([seed, round, 0x105D]).random(num_workers)
        scheduled = [worker for at, worker in self.schedule if at == round]
        takes_part_S = (draw_S >= self.rate) & ~np.isin(np.arange(num_workers), scheduled)
        return takes_part_S.astype(np.float32)
