"""Checks options that are plain Python values, by name and as early as possible."""

import numbers
import operator
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, least: int) -> int:
    """`value` as an `int`, at least `least`; accepts NumPy integers, but not bools."""
    try:
        if isinstance(value, bool):
            raise TypeError
        value = operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{name}` must be an integer; got {value!r}.") from error
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {value}.")
    return value


def check_real(name: str, value: Any, *, zero: bool = False) -> None:
    """Refuses anything but a positive (with `zero`: non-negative) number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"`{name}` must be a number; got {value!r}.")
    if not (float(value) >= 0 if zero else float(value) > 0):
        sort = "non-negative" if zero else "positive"
        raise ValueError(f"`{name}` must be {sort}; got {value}.")


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False; got {value!r}.")


def check_numbers(name: str, values: np.ndarray) -> None:
    """Refuses a NumPy array whose dtype JAX does not have, up to precision."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind in "OSUMm" or size > {"f": 8, "c": 16}.get(kind, size):
        raise TypeError(
            f"`{name}` must be numbers of a dtype that JAX has; got {values.dtype}. "
            "Convert it first, by `.astype(float)` or `.astype(complex)`."
        )
