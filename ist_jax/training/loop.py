"""The one training loop. It knows interfaces, never the name of a method, a model or a data set."""

import contextlib
import dataclasses
import io
import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ist_jax.analysis.links import Link
from ist_jax.analysis.meter import Programs, measured, seconds_per_sync
from ist_jax.core.keys import named_key
from ist_jax.core.processes import any_process, fetch, is_first, key_on, replicate
from ist_jax.core.sample_order import View
from ist_jax.core.task import Task
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array, Key, Params
from ist_jax.data.base import Dataset
from ist_jax.methods import Costs, Start, State
from ist_jax.methods import Method as Algorithm
from ist_jax.training.evaluation import evaluate_chunks, means, plus
from ist_jax.training.failures import Failures
from ist_jax.training.loggers import Row, Terminal
from ist_jax.training.summary import RunState, evaluated_row, summarise
from ist_jax.training.workdir import Workdir

Stop = Callable[[], bool]


class Phase(NamedTuple):
    """A part of a run: an algorithm, for how many samples (of all workers together), J local steps a round."""

    algorithm: Algorithm
    samples: int
    local_steps: int


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """What the loop needs to know.

    Attributes:
      seed: of the one root key.
      name: in progress lines.
      eval_every: rounds between evaluations; 0: at the end only.
      checkpoint_every: rounds between checkpoints; 0: at the end only.
      eval_batch_size: examples per evaluation batch.
      eval_sample: training examples on which normalisation statistics are measured; 0: each test batch is
        normalised by itself (the authors' protocol).
      eval_subnets: whether every subnetwork is evaluated as a classifier of its own.
      lost: which workers are lost when.
      link: a link that synchronisations are thought to go through, for 'simulated_seconds' in the records.
      time_syncs: whether every phase begins with timing its synchronisation apart, on a copy of the state.
    """

    seed: int = 0
    name: str = "train"
    eval_every: int = 20
    checkpoint_every: int = 0
    eval_batch_size: int = 1000
    eval_sample: int = 2000
    eval_subnets: bool = False
    lost: Failures = dataclasses.field(default_factory=Failures)
    link: Link | None = None
    time_syncs: bool = False


class Results(NamedTuple):
    """What a run ends with: the last phase's algorithm and state, the summary, the row of every evaluated round."""

    algorithm: Algorithm
    state: State
    summary: dict[str, Any]
    history: list[Row]

    @property
    def params(self) -> Params:
        """The whole model's, in original order; nothing has held them in one place before."""
        return jax.jit(self.algorithm.params)(self.state)


class NonFiniteLossError(RuntimeError):
    """Training diverged."""


class Stopped(RuntimeError):
    """The run was asked to stop, and has saved."""


def phase_steps(phase: Phase) -> int:
    """Local steps of a phase: its samples, rounded up to whole steps of all workers."""
    return -(-phase.samples // (phase.algorithm.num_workers * phase.algorithm.batch_size))


@jax.jit
def _is_sound(state: State) -> Array:
    """Parameters are finite, and no optimizer's state is nan (some hold infinity by design)."""
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.store)]
    numbers = [
        ~jnp.isnan(leaf).any() for leaf in jax.tree.leaves((state.opt_state, state.outer_state))
    ]
    return jnp.array(finite + numbers).all()


def _unsound(state: State) -> str:
    """What `_is_sound` found, by name."""
    leaves = zip(leaf_names(state.store), jax.tree.leaves(state.store))
    return (
        " and ".join(name for name, leaf in leaves if not jnp.isfinite(leaf).all())
        or "the optimizer's state"
    )


class _Run:
    """One run in progress: `run` below is its only user."""

    def __init__(
        self,
        phases: Sequence[Phase],
        task: Task,
        dataset: Dataset,
        config: LoopConfig,
        workdir: Any,
        stop: Stop,
    ):
        self.phases, self.task, self.dataset, self.config, self.stop = (
            phases,
            task,
            dataset,
            config,
            stop,
        )
        self.root = jax.random.key(config.seed)
        self.book, self.pending, self.metered = RunState(), None, set()
        self.loss_SxJ: np.ndarray | None = None  # of the last round that was fetched
        total = sum(
            phase_steps(p) * p.algorithm.num_workers * p.algorithm.batch_size for p in phases
        )
        self.terminal = Terminal(total, config.name, None if is_first() else io.StringIO())
        self.workdir = Workdir(workdir, self.terminal.say)
        self.resumed = self.workdir.saved is not None

    def __call__(self, start: Start | None) -> Results:
        with contextlib.closing(self.workdir), contextlib.closing(self.terminal):
            if self.resumed:
                self.book = RunState.of(self.workdir.saved, len(self.phases))
                self.terminal.start_at(self.book.samples_seen, self.book.round)
            return self._through_all_phases(start)

    def _through_all_phases(self, start: Start | None) -> Results:
        first, algorithm, state = self.book.phase, None, None
        for number in range(first, len(self.phases)):
            if algorithm is not None:
                start = algorithm.end(state)
                self.book.phase, self.book.steps = number, 0
            algorithm = self.phases[number].algorithm
            state = self._first_state(algorithm, number, start)
            if self.resumed and number == first:
                state = self.workdir.restore(state, algorithm.shapes())
            elif number == 0:
                self._save(algorithm, state)
            state = self._phase(self.phases[number], number, state)
        self._save(algorithm, state)
        summary = summarise(self.book, self.workdir.history, *self._smallest())
        self.workdir.finish(summary)
        return Results(algorithm, state, summary, self.workdir.history)

    def _first_state(self, algorithm: Algorithm, number: int, start: Start | None) -> State:
        began = time.perf_counter()
        state = algorithm.fresh(
            named_key(self.root, f"phase {number}" if number else "init"), start
        )
        self.book.compile_seconds += (
            time.perf_counter() - began
        )  # of its program; the rest of it is nothing
        return state

    def _phase(self, phase: Phase, number: int, state: State) -> State:
        algorithm, config, book = phase.algorithm, self.config, self.book
        programs = Programs(book.add_compile_seconds)
        order_key = named_key(self.root, f"order {number}")
        total = phase_steps(phase)
        self._view(phase, order_key, total)  # the copy to the device
        began = time.perf_counter()
        while book.steps < total:
            steps = min(phase.local_steps, total - book.steps)
            view = self._view(phase, order_key, total)
            key = key_on(algorithm.sharding, jax.random.fold_in(self.root, book.round))
            weight_S = config.lost.alive(config.seed, book.round + 1, algorithm.num_workers)
            book.lost_workers += int((~weight_S).sum())
            weight_S = replicate(algorithm.sharding, weight_S)
            compiled_before = book.compile_seconds
            train = programs.get(steps, algorithm.round, state, view, key, weight_S, steps=steps)
            self._meter(number, algorithm, train, (state, view, key), weight_S, steps)
            began += book.compile_seconds - compiled_before
            state, metrics = train(state, view, key, weight_S)
            self._advance(phase, steps, metrics["loss_SxJ"])
            last = book.steps == total and number == len(self.phases) - 1
            evaluating = last or (config.eval_every and book.round % config.eval_every == 0)
            saving = config.checkpoint_every and book.round % config.checkpoint_every == 0
            stopping = self._is_stopping(evaluating or saving)
            if evaluating or saving or stopping:
                self._fetch()
                jax.block_until_ready(state)
                book.add_seconds(time.perf_counter() - began, algorithm)
                if evaluating:
                    self._evaluate(algorithm, state, programs)
                if saving or stopping:
                    self._save(algorithm, state)
                if stopping:
                    raise Stopped(
                        f"stopped in round {book.round}, which is saved; the same command goes on from there"
                    )
                began = time.perf_counter()
        self._fetch()
        jax.block_until_ready(state)
        book.add_seconds(time.perf_counter() - began, algorithm)
        return state

    def _view(self, phase: Phase, key: Key, total: int) -> View:
        """What the next round of a phase may index."""
        algorithm, book = phase.algorithm, self.book
        ends = [
            min(book.steps + rounds * phase.local_steps, total) * algorithm.batch_size
            for rounds in range(3)
        ]
        drawn, then = itertools.starmap(range, itertools.pairwise(ends))
        return self.dataset.view(
            book.round, key, algorithm.num_workers, algorithm.sharding, drawn, then
        )

    def _meter(
        self,
        number: int,
        algorithm: Algorithm,
        train: Any,
        given: tuple[Any, ...],
        weight_S: Array,
        steps: int,
    ) -> None:
        """Reads from a phase's first program what it costs, outside the training time like its compilation."""
        if number not in self.metered:
            began = time.perf_counter()
            self.metered.add(number)
            found = measured(algorithm, train, *given, steps)
            found["seconds_per_sync"] = (
                seconds_per_sync(algorithm, *given, weight_S) if self.config.time_syncs else None
            )
            self.book.metered[str(number)] = found
            self.book.compile_seconds += time.perf_counter() - began

    def _is_stopping(self, boundary: bool) -> bool:
        """One process may stop after any round; several agree where they wait for each other anyway."""
        if jax.process_count() == 1:
            return self.stop()
        return bool(boundary) and any_process(self.stop())

    def _advance(self, phase: Phase, steps: int, loss_SxJ: Array) -> None:
        """Counts a dispatched round, and fetches the loss of the one before it: the device never waits."""
        self.book.add_round(phase.algorithm, steps, self.config.link)
        self._fetch()
        self.pending = (self.book.round, loss_SxJ)
        samples = steps * phase.algorithm.num_workers * phase.algorithm.batch_size
        self.terminal.advance(
            samples, self.book.round, None if self.loss_SxJ is None else float(self.loss_SxJ.mean())
        )

    def _fetch(self) -> None:
        if self.pending is None:
            return
        round, loss_SxJ = self.pending[0], fetch(self.pending[1])
        self.pending = None
        if not np.isfinite(loss_SxJ).all():
            worker, step = np.argwhere(~np.isfinite(loss_SxJ))[0]
            raise NonFiniteLossError(
                f"the loss of subnetwork {worker} became {loss_SxJ[worker, step]} in local step {step + 1} of round "
                f"{round}: lower the learning rate, or clip gradients"
            )
        self.loss_SxJ = loss_SxJ
        self.book.loss_sum += float(loss_SxJ.mean(dtype=np.float64))
        self.book.loss_rounds += 1

    def _evaluate(self, algorithm: Algorithm, state: State, programs: Programs) -> None:
        config, book = self.config, self.book
        sample = (
            self.dataset.calibration_batch(config.eval_sample, algorithm.sharding)
            if config.eval_sample
            else None
        )
        options = dict(batch_size=config.eval_batch_size, subnets=config.eval_subnets)
        program = jax.jit(lambda *given: evaluate_chunks(algorithm, self.task, *given, **options))
        sums, began, before = {}, time.perf_counter(), book.compile_seconds
        for chunks in self.dataset.chunks(
            ("validation", "test"), algorithm.sharding, config.eval_batch_size
        ):
            compiled = programs.get(("evaluate", *chunks), program, state, chunks, sample)
            for part, found in jax.tree.map(fetch, compiled(state, chunks, sample)).items():
                sums[part] = plus(sums[part], found) if part in sums else found
        book.evaluation_seconds += time.perf_counter() - began - (book.compile_seconds - before)
        result = {part: means(found) for part, found in sums.items()}
        row = evaluated_row(book, result, self.loss_SxJ, with_link=config.link is not None)
        self.workdir.write(row)
        self.terminal.write(row)

    def _smallest(self) -> tuple[Costs, str]:
        """The costs and the number of the phase whose workers hold the smallest model."""
        costs = [phase.algorithm.costs for phase in self.phases]
        number = min(range(len(costs)), key=lambda i: costs[i].device_parameters)
        return costs[number], str(number)

    def _save(self, algorithm: Algorithm, state: State) -> None:
        if not _is_sound(state):  # the loss that shows it is the next round's
            found = f"{_unsound(state)} became nan or infinite in round {self.book.round}"
            raise NonFiniteLossError(f"{found}: lower the learning rate")
        self.workdir.save(self.book.round, state, algorithm.shapes(), dataclasses.asdict(self.book))


def run(
    phases: Sequence[Phase | tuple[Algorithm, int, int]],
    task: Task,
    dataset: Dataset,
    config: LoopConfig | None = None,
    workdir: str | pathlib.Path | None = None,
    *,
    start: Start | None = None,
    stop: Stop = lambda: False,
) -> Results:
    """Trains through all phases, each from where the one before it ended.

    Args:
      phases: (algorithm, samples of all workers together, local steps of a round). Samples are rounded up to
        whole local steps; the last round of a phase may be shorter.
      task: loss, batch and metrics.
      dataset: training, validation and test data.
      config: see `LoopConfig`.
      workdir: where metrics.jsonl, summary.json, TensorBoard events and checkpoints go; None writes nothing. A
        workdir with checkpoints is gone on with.
      start: what the first phase starts from instead of a fresh initialisation, such as `Start(params)`.
      stop: asked after every round, on several processes at evaluations and checkpoints; once any says True the
        run saves and raises Stopped.

    Raises:
      NonFiniteLossError: the loss became nan or infinite; the message names round and subnetwork. The
        checkpoints before it stand.
      Stopped: `stop` said so.
      WorkdirError: the workdir is in use, cannot be written, or its checkpoints are damaged or do not fit.
      StartError: `start` has parameters of another model.
      ValueError: a phase without samples or local steps.
    """
    phases = [Phase(*phase) for phase in phases]
    for phase in phases:
        if phase.samples < 1 or phase.local_steps < 1:
            raise ValueError(
                f"a phase has at least one sample and one local step, not {phase.samples} and {phase.local_steps}"
            )
    return _Run(phases, task, dataset, config or LoopConfig(), workdir, stop)(start)
