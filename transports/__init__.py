"""How messages travel: in memory, over a local socket; and the gateway every client speaks to."""
