"""Moving units between the global parameters and the subnetworks."""

from ist_jax.exchange.base import Exchange, ExchangeFactory, Store
from ist_jax.exchange.codecs import FORMATS, WIRES
from ist_jax.exchange.exchange import one_device, over_mesh
from ist_jax.exchange.independent import separate
from ist_jax.exchange.layout import resident_groups, settled, storage_order

__all__ = [
    "FORMATS",
    "WIRES",
    "Exchange",
    "ExchangeFactory",
    "Store",
    "one_device",
    "over_mesh",
    "resident_groups",
    "separate",
    "settled",
    "storage_order",
]
