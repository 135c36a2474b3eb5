"""The storage backends that come with mdashcore. Each is found through the entry-point group `mdashcore.backends`."""
