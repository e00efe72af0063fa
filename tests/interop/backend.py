"""The reference implementation's backend interface, over this library."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from cachetory.interfaces.backends.sync import SyncBackend

import cachetory_c

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)


def milliseconds(time: timedelta | None) -> int:
    return cachetory_c.NO_EXPIRY if time is None else time // MILLISECOND


class CachetoryBackend(SyncBackend[bytes]):
    def __init__(self, cache: cachetory_c.Cache) -> None:
        self._cache = cache

    @classmethod
    def from_url(cls, url: str) -> CachetoryBackend:
        return cls(cachetory_c.Cache(url))

    def get(self, key: str) -> bytes:
        value = self._cache.get(key.encode())
        if value is None:
            raise KeyError(key)
        return value

    def get_many(self, *keys: str) -> Iterable[tuple[str, bytes]]:
        values = self._cache.mget([key.encode() for key in keys])
        return ((key, value) for key, value in zip(keys, values) if value is not None)

    def expire_in(self, key: str, time_to_live: timedelta | None = None) -> None:
        self._cache.expire_in(key.encode(), milliseconds(time_to_live))

    def expire_at(self, key: str, deadline: datetime | None) -> None:
        since_epoch = None if deadline is None else deadline - EPOCH
        self._cache.expire_at(key.encode(), milliseconds(since_epoch))

    def set(
        self,
        key: str,
        value: bytes,
        *,
        time_to_live: timedelta | None = None,
        if_not_exists: bool = False,
    ) -> bool:
        return self._cache.set(key.encode(), value, milliseconds(time_to_live), if_not_exists)

    def set_many(self, items: Iterable[tuple[str, bytes]]) -> None:
        self._cache.mset([(key.encode(), value) for key, value in items])

    def delete(self, key: str) -> bool:
        return self._cache.delete(key.encode())

    def delete_many(self, *keys: str) -> None:
        self._cache.mdelete([key.encode() for key in keys])

    def clear(self) -> None:
        self._cache.clear()

    def __exit__(self, *_exception) -> None:
        self._cache.close()
