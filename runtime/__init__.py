"""How actors live: mailboxes, supervision, clocks, the ring, the node. Knows nothing of tasks."""
