"""Evaluates the states of a run, on all splits that are evaluated while training."""

from typing import Any

import jax
import numpy as np

from ist_jax.analysis.meter import Programs
from ist_jax.core.processes import fetch
from ist_jax.core.task import Task
from ist_jax.data.base import Dataset
from ist_jax.methods import Method, State
from ist_jax.training.config import LoopConfig
from ist_jax.training.evaluation import evaluate_chunks, plus, values_of
from ist_jax.training.run_state import RunState

SPLITS = ("validation", "test")


class Evaluator:
    """Evaluates the states of one phase. Its programs are compiled once.

    Args:
      method: of the phase.
      task: batch and metrics.
      dataset: its validation and test splits are evaluated.
      config: see `LoopConfig`.
      run_state: where time spent compiling and bytes sent are counted.
    """

    def __init__(
        self,
        method: Method,
        task: Task,
        dataset: Dataset,
        config: LoopConfig,
        run_state: RunState,
    ):
        self.method, self.task = method, task
        self.dataset, self.config = dataset, config
        self.run_state, self.programs = run_state, Programs()
        options = dict(batch_size=config.eval_batch_size, subnets=config.eval_subnets)
        self.sums = jax.jit(lambda *given: evaluate_chunks(method, task, *given, **options))

    def __call__(self, state: State) -> dict[str, Any]:
        """{split: {metric: value}}; metrics of subnetworks are under "<split>_subnets"."""
        sharding, size, sums = self.method.sharding, self.config.calibration_examples, {}
        calibration = self.dataset.calibration_batch(size, sharding) if size else None
        for chunks in self.dataset.chunks(SPLITS, sharding, self.config.eval_batch_size):
            name, given = tuple(chunks), (state, chunks, calibration)
            with self.run_state.timed("compile"):
                compiled = self.programs.get(name, self.sums, *given)
                sent = self.programs.bytes_sent(name, self.method)
            self.run_state.add_sent("evaluation", sent)
            for split, sum in jax.tree.map(fetch, compiled(*given)).items():
                sums[split] = plus(sums[split], sum) if split in sums else sum
        metrics = {split: dict(values_of(self.task, split, sum)) for split, sum in sums.items()}
        return jax.tree.map(lambda value: np.asarray(value).tolist(), metrics)
