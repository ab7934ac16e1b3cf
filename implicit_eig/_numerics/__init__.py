"""Numerical linear algebra of small matrices; it knows no other kind of object."""

from .batched_eig import eig_by_qr as eig_by_qr
from .device_eig import (
    device_eig as device_eig,
    device_eig_from_both_sides as device_eig_from_both_sides,
)
from .scaling import (
    largest_part as largest_part,
    power_of_two as power_of_two,
    times_real as times_real,
)
from .small_solve import inv as inv, solve as solve
