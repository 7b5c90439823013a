"""Exchanges: how units move between the stored parameters and the subnetworks."""

from ist_jax.exchange.base import Exchange, Store
from ist_jax.exchange.codecs import CODECS, COMPRESSIONS
from ist_jax.exchange.exchange import one_device, over_mesh
from ist_jax.exchange.independent import Independent, independent
from ist_jax.exchange.layout import choose_holder_sharded, choose_home_sharded, storage_order

__all__ = [
    "CODECS",
    "COMPRESSIONS",
    "Exchange",
    "Independent",
    "Store",
    "choose_holder_sharded",
    "choose_home_sharded",
    "independent",
    "one_device",
    "over_mesh",
    "storage_order",
]
