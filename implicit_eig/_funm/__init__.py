"""Functions of general dense matrices, and spectral projectors."""

from .funm import funm as funm, spectral_projector as spectral_projector
