"""A fleet as a whole: a summary of each account that is looked at, and lists and figures made of it."""
