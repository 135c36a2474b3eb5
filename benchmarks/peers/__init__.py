"""What a user would pick instead: small, honest programs that do the same job, with less around it."""
