"""Moving units between the global parameters and the subnetworks."""

from ist_jax.exchange.base import Exchange, ExchangeFactory, Store
from ist_jax.exchange.formats import FORMATS, WIRES
from ist_jax.exchange.resting import lying_units, resident_groups, settled
from ist_jax.exchange.separate import separate
from ist_jax.exchange.units import one_device, over_mesh

__all__ = [
    "FORMATS",
    "WIRES",
    "Exchange",
    "ExchangeFactory",
    "Store",
    "lying_units",
    "one_device",
    "over_mesh",
    "resident_groups",
    "separate",
    "settled",
]
