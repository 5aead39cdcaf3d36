"""PostgreSQL: what survives, for the nodes of a cluster."""
