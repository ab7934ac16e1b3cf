"""Derivatives are right, in every mode and order, or NaN where there are none."""
