"""The page that type checkers read in `make lint` also runs."""

import jax

from . import typed_user_code as page


def test_typed_user_code_runs():
    with jax.numpy_dtype_promotion("standard"):
        for part in ("selections", "arrays", "operators", "choices", "losses"):
            getattr(page, part)()
