"""Backups of a store, and checks of one."""
