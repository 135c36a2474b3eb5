"""The alternatives of a user: small, honest programs that do the same job, with less around it."""
