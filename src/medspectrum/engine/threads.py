"""The same bits on every machine: linear algebra on one thread."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def one_blas_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: NumPy's and SciPy's products run on one thread while the function does.

    With several threads sums are added up in another order, so that results would depend, in the last
    bits, on how many processors a machine or worker has.
    """

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        with blas_libraries().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@functools.cache
def blas_libraries() -> Any:
    """The thread pools of the linear algebra that is loaded. Found once: looking takes milliseconds."""
    import numpy.linalg  # noqa: F401 - a library that is not loaded cannot be found
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_torch_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: torch works on one thread while the function does, for the same reason.

    For work in many small steps it is also the quicker way where the processors are shared: threads that
    wait for each other at every step wait for whatever else runs.
    """

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> T:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_num_threads(before)

    return limited
