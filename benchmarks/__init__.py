"""Costs as ratios measured in one run. Each module runs alone; ``python -m benchmarks`` runs them all."""
