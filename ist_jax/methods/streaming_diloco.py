"""Streaming DiLoCo: DiLoCo that synchronises one fragment of the parameters at a time.

A. Douillard et al.: Streaming DiLoCo with overlapping communication, 2025 (arXiv 2501.18512).

Each round of J local steps ends with the synchronisation of one of P fragments, in turn. So each
fragment is synchronised every H = P x J steps, and what is sent at once is a P-th of the model
(section 2.2). Workers do not wait for it: they adopt a fragment K steps into the next round, and
mix its global value with their local one (section 2.3, Algorithm 2):

    local <- alpha local + (1 - alpha) global

The paper also sends the pseudo-gradients in 4 bits (section 2.4). Here they are exact.

One round is one program, and programs run one after another. So a device does not train while it
sends. Overlapping the two would not change results; recorded times do not assume it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ist_jax.core.decomposition import Decomposition, replicated
from ist_jax.core.placement import Placement
from ist_jax.core.sample_order import View
from ist_jax.core.subnet import blend
from ist_jax.core.task import Task
from ist_jax.core.trees import leaf_names
from ist_jax.core.types import Array, Key, Params
from ist_jax.methods.base import Method
from ist_jax.methods.diloco import nesterov
from ist_jax.methods.exchanged import Exchanged, fill, owners, pick
from ist_jax.methods.ist import Ist, fields_of
from ist_jax.methods.local_step import Measured
from ist_jax.methods.state import State


@dataclasses.dataclass(frozen=True, eq=False)
class StreamingDiloco(Ist):
    """Full models that push a fragment per round, and adopt it `overlap` steps into the next.

    Attributes:
      overlap: K; 0 adopts the fragment at the end of the round that pushes it.
      mixing: alpha, the weight of a worker's local value; 0 adopts the global value.
    """

    overlap: int = 0
    mixing: float = 0.0

    def check_local_steps(self, steps: int) -> None:
        super().check_local_steps(steps)
        if self.overlap > steps:
            raise ValueError(
                f"a fragment arrives before the next one is sent: overlap={self.overlap} must be "
                f"at most the {steps} local steps of a round"
            )

    def _adopted(self, state: State, copies_S: Exchanged, pushed: frozenset[str]) -> Exchanged:
        return copies_S if self.overlap else self._mixed(state, copies_S, pushed, jnp.array(True))

    def _train(
        self,
        state: State,
        params_S: Params,
        opt_S: Any,
        view: View,
        key: Key,
        steps: range,
        turn: int,
    ) -> tuple[Params, Any, Measured]:
        given, first = (view, key), steps[: self.overlap]
        if not self.overlap:
            return super()._train(state, params_S, opt_S, *given, steps, turn)
        params_S, opt_S, early_SxJ = super()._train(state, params_S, opt_S, *given, first, turn)
        sent, has_sent = self.info.turns[turn - 1].pushed, state.position > 0
        params_S = self._mixed(state, Exchanged(params_S), sent, has_sent).params
        rest = steps[self.overlap :]
        params_S, opt_S, late_SxJ = super()._train(state, params_S, opt_S, *given, rest, turn)
        join = lambda early, late: jnp.concatenate([early, late], axis=1)
        return params_S, opt_S, jax.tree.map(join, early_SxJ, late_SxJ)

    def _mixed(
        self, state: State, local_S: Exchanged, fragment: frozenset[str], arrives: Array
    ) -> Exchanged:
        """`local_S`, with the global value of a fragment mixed into it if it `arrives`."""
        weight = jnp.where(arrives, 1 - self.mixing, 0)
        mix = lambda local, new: blend(local, new, weight.reshape((1,) * local.ndim))
        global_S = Exchanged(self.exchange.pull(state.store, state.indices).params)
        parts = [pick(tree_S, owners(tree_S), fragment) for tree_S in (local_S, global_S)]
        return fill(jax.tree.map(mix, *parts), local_S)


def balanced_fragments(shapes: Params, count: int) -> list[frozenset[str]]:
    """The names of the parameters, in `count` fragments of about the same number of entries.

    The largest parameter comes first, and each goes to the smallest fragment so far.
    """
    fragments, entries = [set[str]() for _ in range(count)], [0] * count
    sizes = dict(zip(leaf_names(shapes), (leaf.size for leaf in jax.tree.leaves(shapes))))
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        smallest = entries.index(min(entries))
        fragments[smallest].add(name)
        entries[smallest] += sizes[name]
    return list(map(frozenset, fragments))


def _fragments(shapes: Params, fragments: int | Callable[[str], int]) -> list[frozenset[str]]:
    """The names of the parameters of every fragment; see `streaming_diloco`."""
    names = leaf_names(shapes)
    if isinstance(fragments, int):
        if not 1 <= fragments <= len(names):
            raise ValueError(
                f"fragments={fragments} must be from 1 to {len(names)}, the number of the model's "
                "parameters"
            )
        return balanced_fragments(shapes, fragments)
    numbers: Mapping[str, int] = {name: fragments(name) for name in names}
    if {*numbers.values()} != {*range(max(numbers.values()) + 1)}:
        raise ValueError(
            f"fragments must be numbered from 0 without gaps, not {sorted({*numbers.values()})}"
        )
    return [
        frozenset(name for name in names if numbers[name] == number)
        for number in range(max(numbers.values()) + 1)
    ]


def streaming_diloco(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    num_workers: int,
    batch_size: int,
    fragments: int | Callable[[str], int] = 4,
    overlap: int = 0,
    mixing: float = 0.0,
    outer_tx: optax.GradientTransformation | None = None,
    placement: Placement | None = None,
) -> Method:
    """Streaming DiLoCo on the full model. The decomposition's groups are not used.

    Between synchronisations workers differ, and the full model has the mean of theirs. So it is
    not the global model of the paper, which has only what was synchronised.

    Args:
      decomposition: its `full` model is trained.
      task: the problem to solve.
      tx: the inner optimizer, AdamW in the paper. Its state stays with its worker.
      num_workers: S.
      batch_size: examples per local step of one worker.
      fragments: P, the number of fragments (`balanced_fragments`), or a function from a parameter's
        name, such as 'block_0/attention/query/kernel', to the number of its fragment. Fragments
        are pushed in the order of their numbers.
      overlap: K, the local steps between sending a fragment and adopting it. A worker that fails in
        the round in which a fragment arrives does not adopt it. If all workers fail in a round
        that sends one, its old global value arrives.
      mixing: alpha, the weight of a worker's local value when a fragment arrives.
      outer_tx: the outer optimizer, with a state for each fragment; None: `diloco.nesterov()`.
      placement: see `ist`.

    Raises:
      ValueError: `fragments`, `overlap` or `mixing` is out of range; also as in `ist`.
    """
    if overlap < 0 or not 0 <= mixing <= 1:
        raise ValueError(
            f"overlap is at least 0 and mixing from 0 to 1, not {overlap} and {mixing:g}"
        )
    fields = fields_of(
        lambda labels, shapes: _fragments(shapes.params, fragments),
        replicated(decomposition, num_workers),
        task,
        tx,
        batch_size=batch_size,
        placement=placement,
        opt_state="local",
        outer_tx=outer_tx or nesterov(),
    )
    if overlap or mixing:  # then workers differ from the global value even in what they push
        every = frozenset().union(*(turn.pushed for turn in fields["info"].turns))
        fields["copied"] = every
    return StreamingDiloco(**fields, overlap=overlap, mixing=mixing)
