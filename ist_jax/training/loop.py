"""The training loop. It uses interfaces only: no method, model, metric or data set is named."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax

from ist_jax.analysis import meter
from ist_jax.analysis.meter import Programs
from ist_jax.core.keys import named_key
from ist_jax.core.processes import any_process, is_first, key_on, replicate
from ist_jax.core.sample_order import View
from ist_jax.core.task import Task
from ist_jax.core.types import Array, Key, Metrics
from ist_jax.data.base import Dataset
from ist_jax.methods import Method, Start, State
from ist_jax.training.config import LoopConfig, Phase, phase_steps
from ist_jax.training.divergence import REMEDY, check_loss, check_metrics, check_state
from ist_jax.training.environment import record_from_python
from ist_jax.training.evaluator import Evaluator
from ist_jax.training.local_losses import LocalLosses
from ist_jax.training.loggers import Logger, Terminal
from ist_jax.training.method_warnings import method_warnings
from ist_jax.training.outputs import check_run
from ist_jax.training.recorder import Recorder
from ist_jax.training.results import Results, Stopped
from ist_jax.training.run_state import RunState
from ist_jax.training.summary import evaluated_row, round_row, summarise
from ist_jax.training.workdir import Workdir

Stop = Callable[[], bool]
Given = tuple[State, View, Key, Array]  # the arguments of a round


@dataclasses.dataclass(frozen=True)
class _Boundary:
    """What to do before the next round; after most rounds, nothing."""

    evaluates: bool
    saves: bool
    stops: bool
    ends_phase: bool

    def __bool__(self) -> bool:
        return self.evaluates or self.saves or self.stops or self.ends_phase


class _Run:
    """One run in progress, used by `run` below."""

    def __init__(
        self,
        phases: Sequence[Phase],
        task: Task,
        dataset: Dataset,
        config: LoopConfig,
        recorder: Recorder,
        workdir: Workdir,
        stop: Stop,
    ):
        self.phases, self.task, self.dataset = phases, task, dataset
        self.config, self.recorder, self.workdir, self.stop = config, recorder, workdir, stop
        self.root = jax.random.key(config.seed)
        self.run_state = RunState()
        self.programs = Programs()
        self.measured_phases: set[int] = set()
        self.resuming = workdir.saved is not None
        self.pending: tuple[dict[str, Any], Metrics] | None = None  # the last round: row, metrics

    def __call__(self, start: Start | None) -> Results:
        if self.workdir.saved is not None:
            self._resume(self.workdir.saved)
        phase, *later_phases = self.phases[self.run_state.phase :]
        method = phase.method
        state = self._train(phase, self._first_state(method, start))
        for phase in later_phases:
            start = method.end(state)
            self.run_state.start_phase(self.run_state.phase + 1)
            method = phase.method
            state = self._train(phase, self._first_state(method, start))
        self._save(method, state)
        summary = self._summary()
        self.workdir.finish(summary)
        return Results(method, state, summary, self.recorder.history)

    def _resume(self, saved: Mapping[str, Any]) -> None:
        self.run_state = RunState.from_json(saved, len(self.phases))
        run_state, last = self.run_state, len(self.phases) - 1
        is_over = run_state.phase == last and run_state.steps == phase_steps(self.phases[last])
        text = (
            "finished already, and nothing is trained: use another workdir for another run"
            if is_over
            else f"resuming after round {run_state.round}"
        )
        where = {"round": run_state.round, "samples_seen": run_state.samples_seen}
        self.recorder.say(where, text)

    def _first_state(self, method: Method, start: Start | None) -> State:
        """The state that a phase begins with, or resumes from."""
        phase = self.run_state.phase
        self.run_state.use_devices(method.sharding, method.num_workers)
        key = named_key(self.root, f"phase {phase}" if phase else "init")
        with self.run_state.timed("compile"):
            given = method.init_arguments(key, start)
            program = jax.jit(method.init).lower(*given).compile()
            state, sent = program(*given), meter.bytes_sent(method, program)
        if self.resuming:
            self.resuming = False
            return self.workdir.restore(state, method.shapes())
        self.run_state.add_sent("other", sent)
        if phase == 0:
            self._save(method, state)
        return state

    def _train(self, phase: Phase, state: State) -> State:
        """Trains the remaining rounds of a phase, and returns its state."""
        self.programs = Programs()
        self.evaluator = Evaluator(
            phase.method, self.task, self.dataset, self.config, self.run_state
        )
        with contextlib.closing(self._views(phase)) as views:
            view = next(views, None)  # the first copy to the devices is not training time
            for steps in phase.rounds(self.run_state.steps):
                assert view is not None  # there is one for every round
                with self.run_state.timed("train"):
                    state = self._round(phase, state, view, steps)
                    boundary = self._boundary(phase)
                    row = self._finish_round(state) if boundary else None
                if row is not None:
                    self._between_rounds(phase.method, state, row, boundary)
                with self.run_state.timed("train"):
                    view = next(views, None)
        return state

    def _views(self, phase: Phase) -> Generator[View, None, None]:
        """The training examples that each remaining round of a phase draws from."""
        key = named_key(self.root, f"order {self.run_state.phase}")
        method, draws = phase.method, phase.draws(self.run_state.steps)
        return self.dataset.views(key, method.num_workers, method.sharding, draws)

    def _round(self, phase: Phase, state: State, view: View, steps: int) -> State:
        """Dispatches a round, then records the one before it, so that the device never waits."""
        method, run_state = phase.method, self.run_state
        key = key_on(method.sharding, jax.random.fold_in(self.root, run_state.round))
        given = state, view, key, self._weights(method)
        turn = method.turn(run_state.steps // phase.local_steps)
        with run_state.timed("compile"):
            self._measure(method, given, steps)
            train = self._program(method, given, steps, turn)
        state, metrics = train(*given)
        if self.pending is not None:
            self.recorder.log(self._finished_row())
        samples, costs = steps * phase.samples_per_step, method.info.turns[turn].costs
        run_state.add_round(costs, steps, samples, self.config.link)
        self.pending = round_row(run_state), metrics
        return state

    def _program(self, method: Method, given: Given, steps: int, turn: int) -> Any:
        """The compiled round of `steps` local steps at position `turn` of the method's cycle."""
        name = steps, turn
        return self.programs.get(name, method.round, *given, steps=steps, turn=turn)

    def _weights(self, method: Method) -> Array:
        """float32[S]: which workers take part in the coming round. Counts those that fail."""
        config, round = self.config, self.run_state.round + 1
        weight_S = config.failures.weights(config.seed, round, method.num_workers)
        self.run_state.add_failures(weight_S)
        return replicate(method.sharding, weight_S)

    def _measure(self, method: Method, given: Given, steps: int) -> None:
        """Measures the costs of a cycle of rounds, once per phase, before the first of them."""
        phase, run_state = self.run_state.phase, self.run_state
        if phase in self.measured_phases:
            return
        self.measured_phases.add(phase)
        programs = {turn: self._program(method, given, steps, turn) for turn in method.programs}
        sent = {turn: self.programs.bytes_sent((steps, turn), method) for turn in programs}
        costs = meter.measure_round(method, programs, sent, *given[:3], steps)
        seconds = meter.seconds_per_sync(method, *given) if self.config.time_syncs else None
        # a resumed run has already counted the phases that it measured
        if seconds is not None and str(phase) not in run_state.measured:
            run_state.add_sent("other", meter.bytes_of_timing(sent))
        run_state.measured[str(phase)] = costs | {"seconds_per_sync": seconds}

    def _boundary(self, phase: Phase) -> _Boundary:
        """What to do after the round that was dispatched last."""
        config, run_state = self.config, self.run_state
        is_due = lambda every: every > 0 and run_state.round % every == 0
        ends_phase = run_state.steps == phase_steps(phase)
        ends_run = ends_phase and run_state.phase == len(self.phases) - 1
        evaluates, saves = ends_run or is_due(config.eval_every), is_due(config.checkpoint_every)
        return _Boundary(evaluates, saves, self._is_stopping(evaluates or saves), ends_phase)

    def _is_stopping(self, waits: bool) -> bool:
        """Whether to stop: one process may after any round, several only where they wait anyway."""
        if jax.process_count() == 1:
            return self.stop()
        return waits and any_process(self.stop())

    def _finished_row(self) -> dict[str, Any]:
        """The row of the last round, once its loss is known."""
        assert self.pending is not None  # a round is finished once
        row, losses = self.pending[0], LocalLosses.of(self.pending[1])
        check_loss(losses.loss_SxJ, row["round"])
        self.pending, self.losses = None, losses
        self.run_state.tick()
        return row | {"seconds": self.run_state.seconds, "train": losses.metrics}

    def _finish_round(self, state: State) -> dict[str, Any]:
        """The row of the last round, once all of the round is done."""
        row = self._finished_row()
        jax.block_until_ready(state)
        self.run_state.tick()
        return row | {"seconds": self.run_state.seconds}

    def _between_rounds(
        self, method: Method, state: State, row: dict[str, Any], boundary: _Boundary
    ) -> None:
        if boundary.evaluates:
            row |= self._evaluate(state)
        self.recorder.log(row)
        self.recorder.flush()
        if boundary.saves or boundary.stops:
            self._save(method, state)
        if boundary.stops:
            raise Stopped(
                f"stopped in round {row['round']}, which is saved; "
                f"the same command resumes from there"
            )

    def _evaluate(self, state: State) -> dict[str, Any]:
        """Evaluates the state; what an evaluation adds to a round's row."""
        with self.run_state.timed("evaluate"):
            metrics = self.evaluator(state)
        check_metrics(metrics, f"in the evaluation after round {self.run_state.round}", REMEDY)
        self.run_state.select(metrics, self.task.selects)
        with_link = self.config.link is not None
        by_worker = self.losses.by_worker
        return evaluated_row(self.run_state, by_worker, with_link=with_link) | metrics

    def _summary(self) -> dict[str, Any]:
        """The summary, with the costs of the phase whose workers hold the smallest model."""
        costs = [phase.method.costs for phase in self.phases]
        phase = min(range(len(costs)), key=lambda number: costs[number].device_parameters)
        return summarise(self.run_state, self.recorder.history, self.task, costs[phase], phase)

    def _save(self, method: Method, state: State) -> None:
        run_state = self.run_state
        check_state(state, run_state.round)  # the loss that would show it is the next round's
        self.workdir.save(run_state.round, state, method.shapes(), dataclasses.asdict(run_state))


def run(
    phases: Sequence[Phase | tuple[Method, int, int]],
    task: Task,
    dataset: Dataset,
    config: LoopConfig | None = None,
    workdir: str | pathlib.Path | None = None,
    *,
    loggers: Sequence[Logger] = (),
    start: Start | None = None,
    stop: Stop = lambda: False,
) -> Results:
    """Trains all phases, each from where the phase before it ended.

    Args:
      phases: `Phase`s, or tuples of their fields.
      task: loss, batch and metrics.
      dataset: training, validation and test data. Its warnings and the methods' are logged
        first.
      config: see `LoopConfig`.
      workdir: folder for config.json, metrics.jsonl, summary.json, TensorBoard events and
        checkpoints; None writes nothing. A run resumes from the newest checkpoint in its workdir.
      loggers: take the row of every round, as the workdir and the terminal do; closed at the end.
      start: what the first phase starts from instead of a fresh initialisation, such as
        `Start(params)`.
      stop: called after every round; with several processes, only at evaluations and checkpoints.
        When it returns True in any process, the run saves and raises Stopped.

    Raises:
      DataError: data, model and task do not fit together (`training.outputs`).
      NonFiniteLossError: a loss, a metric or a parameter became nan or infinite; the message names
        round and subnetwork or leaf. Earlier checkpoints are kept.
      Stopped: `stop` returned True.
      WorkdirError: the workdir is in use or cannot be written, or its checkpoints are damaged or do
        not fit.
      StartError: `start` has parameters of another model.
      ValueError: a phase has no samples or no local steps, its rounds would lose gradients that the
        optimizer accumulates, or `config` simulates a link between devices that have a real one.
    """
    phases = [phase if isinstance(phase, Phase) else Phase(*phase) for phase in phases]
    config = config or LoopConfig()
    config.check_link(phases)
    for phase in phases:
        check_run(phase.method, task, dataset)
    total = sum(phase_steps(phase) * phase.samples_per_step for phase in phases)
    with contextlib.ExitStack() as closing:
        if is_first():
            loggers = [Terminal(total, config.name), *loggers]
        for logger in loggers:
            closing.callback(logger.close)
        recorder = Recorder(loggers)
        opened = Workdir(workdir, lambda text: recorder.say({}, text))
        closing.callback(opened.close)
        recorder.add_first(opened, opened.history)
        opened.begin(lambda: record_from_python(phases, dataset, config, start))
        methods = [phase.method for phase in phases]
        for warning in (*dataset.warnings, *method_warnings(methods, task, dataset)):
            recorder.say({}, f"warning: {warning}")
        return _Run(phases, task, dataset, config, recorder, opened, stop)(start)
