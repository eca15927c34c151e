"""The ids of an import's earlier lines: in millions about 20 bytes each, in a set 100."""

from typing import Final
from uuid import UUID

BUCKETS: Final = 2**16
ID_BYTES: Final = 16


class SeenIds:
    """Ids by type. A bucket is the bytes of its ids, 150 of them in an import of 10 million lines.

    Hashes of bytes are salted, so no file can fill one bucket.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, int], bytearray] = {}

    def add(self, kind: str, found: UUID) -> bool:
        """Adds an id; false if it is there already."""
        key = found.bytes
        bucket = self._buckets.setdefault((kind, hash(key) % BUCKETS), bytearray())
        place = bucket.find(key)
        while place % ID_BYTES > 0 and place != -1:
            place = bucket.find(key, place + 1)
        if place != -1:
            return False
        bucket += key
        return True
