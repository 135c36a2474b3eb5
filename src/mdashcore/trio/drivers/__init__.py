"""Tasks that drive updates and rollouts to their end."""
