"""What is stored: every collection, and the records in it."""
