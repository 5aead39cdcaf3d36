"""Who decides: messages, states and the pure actors (shard, queue, tenant, worker)."""
