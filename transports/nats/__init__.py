"""NATS: how messages travel between the processes of a cluster."""
