"""Live connections of devices and subscribers."""
