"""The trees that a method exchanges between workers."""

from typing import Any, NamedTuple


class Exchanged(NamedTuple):
    """Parameters and the optimizer state that moves with them, or their labels, shapes or codecs.

    Attributes:
      params: the parameters.
      opt_state: the local optimizer's state if it is carried with the units, otherwise ().
      outer_state: the outer optimizer's state; () without one. Workers never receive it, but it
        moves with holder-sharded units.
    """

    params: Any
    opt_state: Any = ()
    outer_state: Any = ()

    @property
    def pulled(self) -> "Exchanged":
        """The part that workers receive and return."""
        return self._replace(outer_state=())
