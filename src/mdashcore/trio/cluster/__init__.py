"""Several nodes that share one store."""
