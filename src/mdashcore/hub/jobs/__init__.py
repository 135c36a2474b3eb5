"""Jobs: values of `desired` for many devices."""
