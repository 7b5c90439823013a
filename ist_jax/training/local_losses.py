"""The losses of a round's local steps, and their means over examples."""

from typing import NamedTuple

import numpy as np

from ist_jax.core.processes import fetch
from ist_jax.core.types import Metrics


class LocalLosses(NamedTuple):
    """The losses of one round.

    Attributes:
      loss_SxJ: of every worker's local steps; 0 for a batch without examples.
      weight_SxJ: the number of examples that each loss is a mean over; None: it is always the same.
    """

    loss_SxJ: np.ndarray
    weight_SxJ: np.ndarray | None = None

    @classmethod
    def of(cls, metrics: Metrics) -> "LocalLosses":
        """The losses among the metrics of a round. All processes must call it."""
        loss_SxJ = fetch(metrics["loss_SxJ"])
        if "weight_SxJ" not in metrics:
            return cls(loss_SxJ)
        weight_SxJ = fetch(metrics["weight_SxJ"])
        return cls(np.where(weight_SxJ > 0, loss_SxJ, 0), weight_SxJ)

    @property
    def metrics(self) -> dict[str, float]:
        """{"loss": the mean over workers and steps}; {} if there was no example."""
        if self.weight_SxJ is None:
            return {"loss": float(self.loss_SxJ.mean(dtype=np.float64))}
        weight_SxJ = self.weight_SxJ.astype(np.float64)
        total = float(weight_SxJ.sum())
        return {"loss": float((weight_SxJ * self.loss_SxJ).sum()) / total} if total else {}

    @property
    def by_worker(self) -> list[float | None]:
        """The mean loss of every worker; None for a worker without examples."""
        if self.weight_SxJ is None:
            return self.loss_SxJ.mean(axis=1).tolist()
        pairs = zip(self.loss_SxJ[:, None], self.weight_SxJ[:, None])
        return [LocalLosses(*pair).metrics.get("loss") for pair in pairs]
