"""The whole cluster in one seeded process."""
