"""Seeds as pure functions of what they are for: no random state to save, the same on every machine."""

import hashlib


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a pure function of ``repr`` of its arguments.

    ``hash()`` will not do: it is salted per process for strings.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
