"""The trees that a method exchanges between workers."""

from typing import Any, NamedTuple


class Exchanged(NamedTuple):
    """Parameters and the optimizer state that moves with them; also their labels, shapes or codecs.

    Attributes:
      params: the parameters.
      opt_state: the local optimizer's state, if it is carried with the units; otherwise ().
      outer_state: the outer optimizer's state. It never goes to the workers; it moves when its
        units are stored elsewhere. () without an outer optimizer.
    """

    params: Any
    opt_state: Any = ()
    outer_state: Any = ()

    @property
    def pulled(self) -> "Exchanged":
        """The part that goes to the workers and comes back."""
        return self._replace(outer_state=())
