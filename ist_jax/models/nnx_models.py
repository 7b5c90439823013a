"""Flax NNX modules as models, and batch normalisation for them.

`ist_jax.models` imports this file on first use. It is not called `nnx.py`: an imported submodule of
that name would hide the function `ist_jax.models.nnx`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.nnx
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.tree_util import tree_flatten_with_path
from jax.typing import DTypeLike

from ist_jax.core.errors import ModelError
from ist_jax.core.keys import named_key
from ist_jax.core.model import Model, Stats
from ist_jax.core.trees import leaf_names, map_with_names
from ist_jax.core.types import Array, Key, Params
from ist_jax.models.norm import along_last, moments, widened


class NormStat(flax.nnx.Variable):
    """A moment that `NnxBatchNorm` measured; neither a parameter nor a running average."""


class NnxBatchNorm(flax.nnx.Module):
    """`ist_jax.models.BatchNorm` for NNX: batch normalisation without running statistics.

    `Model.apply` and `Model.measure` choose the statistics.

    Attributes:
      scale: [H], a parameter; None without `affine`.
      bias: [H], a parameter; None without `affine`.
      mean: [H], measured.
      var: [H], measured.
      mode: 'batch' (the batch's statistics), 'measure' (the same, and keeps them) or 'measured'
        (those that were kept).
    """

    def __init__(
        self,
        num_features: int,
        *,
        affine: bool = True,
        epsilon: float = 1e-5,
        param_dtype: DTypeLike = jnp.float32,
        rngs: flax.nnx.Rngs | None = None,
    ):
        """Initialises scale and bias.

        Args:
          num_features: H.
          affine: whether to apply a scale and a bias.
          epsilon: added to the variance.
          param_dtype: dtype of scale and bias.
          rngs: not used; accepted because NNX layers take it.
        """
        del rngs
        shape, wide = (num_features,), jnp.promote_types(param_dtype, jnp.float32)
        self.affine, self.epsilon, self.mode = affine, epsilon, "batch"
        if affine:
            self.scale = flax.nnx.Param(jnp.ones(shape, param_dtype))
            self.bias = flax.nnx.Param(jnp.zeros(shape, param_dtype))
        self.mean = NormStat(jnp.zeros(shape, wide))
        self.var = NormStat(jnp.ones(shape, wide))

    def __call__(self, x: Array) -> Array:
        wide = widened(x)
        mean, var = self._statistics(wide)
        y = (wide - mean) * jax.lax.rsqrt(var + self.epsilon)
        if self.affine:
            y = y * along_last(self.scale[...], x.ndim) + along_last(self.bias[...], x.ndim)
        return y.astype(x.dtype)

    def _statistics(self, x: Array) -> tuple[Array, Array]:
        if self.mode == "measured":
            return along_last(self.mean[...], x.ndim), along_last(self.var[...], x.ndim)
        mean, var = moments(x)
        if self.mode == "measure":
            self.mean[...], self.var[...] = mean.reshape(-1), var.reshape(-1)
        return mean, var


class _Parts(NamedTuple):
    """A module without its values: its graph, and the shapes of its three kinds of variables."""

    graph: Any
    params: Any
    streams: Any
    stats: Any


def _paths(state: Any) -> list[tuple[str, ...]]:
    """The path of every variable, such as ('layers', '0', 'kernel'), in the order of the leaves.

    The last entry of a leaf's path in the tree is the variable's field for its value.
    """
    return [tuple(name.split("/"))[:-1] for name in leaf_names(state)]


def _as_dict(state: Any) -> Any:
    """The values of a state as a nested dict with the names of attributes, list items as '0'."""
    return unflatten_dict(dict(zip(_paths(state), jax.tree.leaves(state))))


def _as_state(shapes: Any, values: Any) -> Any:
    """The inverse of `_as_dict`; `shapes` is a state of the same variables."""
    flat = flatten_dict(values)
    return jax.tree.structure(shapes).unflatten(flat[path] for path in _paths(shapes))


def _seeded(streams: Any, key: Key) -> Any:
    """The random streams of a module, each with a separate key that depends on its name."""

    def seeded(name: str, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # the count of draws
            return jnp.zeros(leaf.shape, leaf.dtype)
        stream_key = named_key(key, name)
        return jax.random.split(stream_key, leaf.shape) if leaf.shape else stream_key

    return map_with_names(seeded, streams)


def _plain_arrays(module: Any) -> dict[str, str]:
    """name -> 'array', for arrays that are attributes and not in a variable.

    When NNX traces a module, it treats them as static values.
    """
    return {
        "/".join(map(str, (*path, name))): "array"
        for path, part in flax.nnx.iter_modules(module)
        for name, value in vars(part).items()
        if isinstance(value, jax.Array)
    }


def _other_variables(others: Any) -> dict[str, str]:
    """name -> kind, for the variables of a state."""
    is_variable = lambda node: isinstance(node, flax.nnx.Variable)
    return {
        "/".join(str(entry.key) for entry in path): type(leaf).__name__
        for path, leaf in tree_flatten_with_path(others, is_leaf=is_variable)[0]
    }


def _check_others(others: dict[str, str]) -> None:
    """Raises ModelError if a module has arrays other than parameters and random streams."""
    if not others:
        return
    remedy = "compute it in __call__, or make it an nnx.Param"
    if "BatchStat" in others.values():
        remedy = "use ist_jax.models.NnxBatchNorm, which keeps no running statistics"
    listed = ", ".join(f"{name} ({kind})" for name, kind in others.items())
    raise ModelError(
        f"an NNX module's only arrays are its parameters, but it has {listed}: {remedy}"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class NnxModel:
    """A Flax NNX module as a `Model`; see `nnx`.

    Attributes:
      make: makes the module.
    """

    make: Callable[[flax.nnx.Rngs], flax.nnx.Module]

    @functools.cached_property
    def _parts(self) -> _Parts:
        kinds = (flax.nnx.Param, flax.nnx.RngState, NormStat, ...)
        plain = {}

        def split(key: Key) -> Any:
            module = self.make(flax.nnx.Rngs(key))
            plain.update(_plain_arrays(module))
            return flax.nnx.split(module, *kinds)

        *parts, others = jax.eval_shape(split, jax.random.key(0))
        _check_others(_other_variables(others) | plain)
        return _Parts(*parts)

    def init(self, key: Key, example: Any) -> Params:
        del example  # an NNX module is made with its input sizes
        _ = self._parts  # refuses other arrays
        return _as_dict(flax.nnx.state(self.make(flax.nnx.Rngs(key)), flax.nnx.Param))

    def apply(
        self, params: Params, inputs: Any, *, key: Key | None = None, stats: Stats | None = None
    ) -> Array:
        return self._applied(params, inputs, key, stats, "measured" if stats else "batch")[0]

    def measure(self, params: Params, inputs: Any) -> Stats:
        if not jax.tree.leaves(self._parts.stats):
            return {}
        _, module = self._applied(params, inputs, None, None, "measure")
        return _as_dict(flax.nnx.state(module, NormStat))

    def _applied(
        self, params: Params, inputs: Any, key: Key | None, stats: Stats | None, mode: str
    ) -> tuple[Array, Any]:
        """(outputs, module) after a forward pass."""
        parts = self._parts
        zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
        streams = _seeded(parts.streams, jax.random.key(0) if key is None else key)
        measured = _as_state(parts.stats, stats) if stats else jax.tree.map(zeros, parts.stats)
        module: Any = flax.nnx.merge(
            parts.graph, _as_state(parts.params, params), streams, measured
        )
        if key is None:
            module.eval()
        else:
            module.train()
        module.set_attributes(NnxBatchNorm, mode=mode, raise_if_not_found=False)
        return module(inputs), module


def nnx(make: Callable[[flax.nnx.Rngs], flax.nnx.Module]) -> Model:
    """The `Model` of a Flax NNX module.

    Args:
      make: (rngs) -> the module. It is called to draw parameters, and traced once for the module's
        structure, which must always be the same. The module's `__call__` takes the inputs of a
        batch. All its arrays are `nnx.Param`s or random streams; normalise with
        `ist_jax.models.NnxBatchNorm`, which keeps no running statistics.

    Parameters are a nested dict: that of `self.layers[0].kernel` is called 'layers/0/kernel'.
    With a key, `apply` calls the module's `train()`, and every random stream starts from that key
    and its name. Without one, it calls `eval()`, which turns dropout off. A module that still draws
    random numbers then gets the same ones every time.
    """
    return NnxModel(make)
