"""Numbered SQL files, one folder a database; applied in order by `stores.migrate`."""
