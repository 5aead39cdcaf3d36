"""The clustered form: nodes, workers and what starts them."""
