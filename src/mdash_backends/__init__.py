"""The storage backends that come with mdashcore, each found through the entry-point group `mdashcore.backends`."""
