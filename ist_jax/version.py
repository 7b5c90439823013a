"""The version, in a module that imports nothing, so that it can be read before JAX is installed."""

__version__ = "0.1.0"
