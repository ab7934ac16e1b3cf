"""Who finds which pairs: they are the right ones, and as accurate as they can be."""
