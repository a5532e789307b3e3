"""The one source of randomness: every default seed is drawn from `generator`, in program order."""

from __future__ import annotations

import numpy as np

generator = np.random.Generator(np.random.PCG64())


def set_seed(seed: int | None) -> None:
    """Restart `generator` from `seed`; None takes fresh entropy from the system.

    Raises:
        ValueError: a seed that is not a non-negative integer.
    """
    if seed is not None and (isinstance(seed, bool) or int(seed) != seed or seed < 0):
        raise ValueError(f"set_seed: expected a non-negative integer or None, got {seed!r}")
    bits = np.random.PCG64(None if seed is None else int(seed))
    generator.bit_generator.state = bits.state


def next_seed() -> int:
    """A seed in [0, 2**63), different at each call, repeatable after `set_seed`."""
    return int(generator.integers(1 << 63))


def mix(seed: int, counter: int) -> int:
    """A well-spread 64-bit integer that depends on nothing but `seed` and `counter`.

    The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of seed + counter * gamma.
    """
    mask = (1 << 64) - 1
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


class SeedGenerator:
    """A sequence of seeds: `next()` gives another one at each call.

    Args:
        seed: where the sequence starts; None draws the start with `next_seed`.

    >>> a, b = SeedGenerator(3), SeedGenerator(3)
    >>> a.next() == b.next(), a.next() == a.next()
    (True, False)
    """

    def __init__(self, seed: int | None = None, name: str | None = None):
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer))):
            raise ValueError(f"SeedGenerator: expected an integer or None as seed, got {seed!r}")
        self._seed = seed
        self.name = name
        self.start = next_seed() if seed is None else int(seed)
        self.counter = 0

    def next(self) -> int:
        """The next seed of the sequence, in [0, 2**64)."""
        self.counter += 1
        return mix(self.start, self.counter - 1)

    def get_config(self) -> dict:
        return {"seed": self._seed}

    @classmethod
    def from_config(cls, config: dict) -> SeedGenerator:
        return cls(**config)
