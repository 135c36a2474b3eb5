"""Rollouts: one image for many devices."""
