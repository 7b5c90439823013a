"""Types that all packages share, and the legend of shape letters.

Arrays carry their shapes in their names (`kernel_DxH`, `indices_SxM`, `loss_SxJ`):

    S  subnetworks (workers)         B  examples of one local step of one worker
    M  unit slots of a group in one  D  input features
       subnetwork (padding included) H  hidden units
    J  local steps of a round        C  classes
    K  units in the block that one   N  units of a group, or examples of a data set
       owner sends one subnetwork    R  devices
    P  subnetworks on one device     H  also homes or owners (exchange)

An index equal to the size of its group (one past the end) is padding: gathers fill in zeros, and
scatters drop it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

Array = jax.Array
AnyArray = Any  # an array of JAX or NumPy, or a ShapeDtypeStruct in its place
CsrMatrix = Any  # scipy.sparse.csr_matrix; SciPy has no type annotations
Key = jax.Array
Params = Any  # a pytree of arrays
Batch = Mapping[str, Any]  # arrays, or pytrees of them
Metrics = Mapping[str, Array]  # of a round
Axes = tuple[str | None, ...]
Rules = Sequence[tuple[str, Axes | None]]  # (regex of a full path, group per axis); None: no groups
Indices = Mapping[str, Array]  # group -> int32[S, M]; for one subnetwork int32[M]
