"""Uploads of firmware images."""
