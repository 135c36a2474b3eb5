"""Firmware updates of single devices."""
