"""Where tensors live, and in how many threads they are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]
"""`auto` is the GPU where there is one."""


def device_of(name: DeviceName) -> torch.device:
    """Return the device of that name.

    Raises:
        RunError: If a GPU is asked for and there is none.
    """
    import torch

    from noisegate_apps.runs.errors import RunError

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("`--device cuda` needs a CUDA device, and torch sees none; use `--device cpu`.")
    return torch.device(name)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread on the CPU: sums round by how many there are, and nobody should get a gate of their own."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
