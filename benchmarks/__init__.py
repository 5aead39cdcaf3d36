"""Benchmarks that ship with the product, as `foliot bench`."""
