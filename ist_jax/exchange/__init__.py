"""Moving units between the global parameters and the subnetworks."""

from ist_jax.exchange.base import Exchange, ExchangeFactory, Store
from ist_jax.exchange.home_sharded import home_sharded
from ist_jax.exchange.one_device import one_device
from ist_jax.exchange.separate import separate

__all__ = ["Exchange", "ExchangeFactory", "Store", "home_sharded", "one_device", "separate"]
