"""The firmware library: images that are kept, and the devices that run them."""
