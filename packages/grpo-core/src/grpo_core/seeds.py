"""Seeds that depend on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib


def stable_seed(*parts: int | str) -> int:
    """Hashes a path of numbers and names to a seed.

    The same in every process, on every machine and in every Python version, unlike `hash`.

    Args:
        parts: What the seed is for, for example a run's seed, a purpose and a counter.

    Returns:
        A seed in [0, 2**63), which `torch.Generator.manual_seed` and numpy's generators take.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
