"""What runs: counts, memory, programs compiled once, failures said where they are seen."""
