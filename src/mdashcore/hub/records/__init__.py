"""The stored data: every collection, and the types of its records."""
