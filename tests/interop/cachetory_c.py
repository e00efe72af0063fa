"""A ctypes binding of the whole C ABI, and a small class over it.

The names, the field types and the argument types are those of include/cachetory.h. The library is the file that the
environment variable CACHETORY_LIB names.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_void_p
from ctypes import c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64

cachetory_status_t = c_int32

STATUSES = {
    "CACHETORY_OK": 0,
    "CACHETORY_NOT_FOUND": 1,
    "CACHETORY_NOT_STORED": 2,
    "CACHETORY_ERR_INVALID_ARGUMENT": -1,
    "CACHETORY_ERR_INVALID_URL": -2,
    "CACHETORY_ERR_CLOSED": -3,
    "CACHETORY_ERR_CONNECT": -4,
    "CACHETORY_ERR_TLS": -5,
    "CACHETORY_ERR_AUTH": -6,
    "CACHETORY_ERR_TIMEOUT": -7,
    "CACHETORY_ERR_IO": -8,
    "CACHETORY_ERR_PROTOCOL": -9,
    "CACHETORY_ERR_SERVER": -10,
    "CACHETORY_ERR_UNSUPPORTED": -11,
    "CACHETORY_ERR_CANCELLED": -12,
    "CACHETORY_ERR_INTERNAL": -13,
    "CACHETORY_ERR_BUSY": -14,
    "CACHETORY_ERR_NO_MEMORY": -15,
    "CACHETORY_ERR_DOWN": -16,
}
OK = STATUSES["CACHETORY_OK"]
NOT_FOUND = STATUSES["CACHETORY_NOT_FOUND"]
NOT_STORED = STATUSES["CACHETORY_NOT_STORED"]
ERR_INVALID_ARGUMENT = STATUSES["CACHETORY_ERR_INVALID_ARGUMENT"]
ERR_INVALID_URL = STATUSES["CACHETORY_ERR_INVALID_URL"]
ERR_CLOSED = STATUSES["CACHETORY_ERR_CLOSED"]
ERR_AUTH = STATUSES["CACHETORY_ERR_AUTH"]
ERR_UNSUPPORTED = STATUSES["CACHETORY_ERR_UNSUPPORTED"]

STRLEN = c_size_t(-1).value
NO_EXPIRY = 2**63 - 1
SET_IF_NOT_EXISTS = 1
ERROR_RETRYABLE = 1
ERROR_MAYBE_APPLIED = 2


class cachetory_t(Structure):
    _fields_ = [("id", c_uint64)]


class cachetory_queue_t(Structure):
    _fields_ = [("id", c_uint64)]


class cachetory_bytes_t(Structure):
    _fields_ = [("data", POINTER(c_char)), ("len", c_size_t)]


class cachetory_item_t(Structure):
    _fields_ = [("key", cachetory_bytes_t), ("value", cachetory_bytes_t)]


class cachetory_value_t(Structure):
    _fields_ = [("data", POINTER(c_char)), ("len", c_size_t), ("owner", c_void_p)]


class cachetory_values_t(Structure):
    _fields_ = [("items", POINTER(cachetory_bytes_t)), ("len", c_size_t), ("owner", c_void_p)]


class cachetory_error_t(Structure):
    _fields_ = [("status", cachetory_status_t), ("flags", c_uint32), ("message", c_char * 504)]


class cachetory_completion_t(Structure):
    _fields_ = [
        ("tag", c_uint64),
        ("status", cachetory_status_t),
        ("flags", c_uint32),
        ("value", cachetory_value_t),
        ("values", cachetory_values_t),
        ("deleted", c_uint64),
        ("message", c_char_p),
        ("owner", c_void_p),
        ("reserved", c_uint64 * 5),
    ]


_KEY = [c_void_p, c_size_t]
_KEYS = [POINTER(cachetory_bytes_t), c_size_t]
_ITEMS = [POINTER(cachetory_item_t), c_size_t]
_ERROR = POINTER(cachetory_error_t)
_SUBMIT = [cachetory_t, cachetory_queue_t, c_uint64]

# Function: result, arguments.
FUNCTIONS = {
    "cachetory_open_url": (cachetory_status_t, [c_char_p, POINTER(cachetory_t), _ERROR]),
    "cachetory_close": (cachetory_status_t, [cachetory_t]),
    "cachetory_ping": (cachetory_status_t, [cachetory_t, _ERROR]),
    "cachetory_get": (cachetory_status_t, [cachetory_t, *_KEY, POINTER(cachetory_value_t), _ERROR]),
    "cachetory_mget": (cachetory_status_t, [cachetory_t, *_KEYS, POINTER(cachetory_values_t), _ERROR]),
    "cachetory_set": (
        cachetory_status_t,
        [cachetory_t, *_KEY, c_void_p, c_size_t, c_int64, c_uint32, _ERROR],
    ),
    "cachetory_mset": (
        cachetory_status_t,
        [cachetory_t, *_ITEMS, c_int64, c_uint32, _ERROR],
    ),
    "cachetory_expire_in": (cachetory_status_t, [cachetory_t, *_KEY, c_int64, _ERROR]),
    "cachetory_expire_at": (cachetory_status_t, [cachetory_t, *_KEY, c_int64, _ERROR]),
    "cachetory_delete": (cachetory_status_t, [cachetory_t, *_KEY, _ERROR]),
    "cachetory_mdelete": (cachetory_status_t, [cachetory_t, *_KEYS, POINTER(c_uint64), _ERROR]),
    "cachetory_clear": (cachetory_status_t, [cachetory_t, _ERROR]),
    "cachetory_value_free": (None, [POINTER(cachetory_value_t)]),
    "cachetory_values_free": (None, [POINTER(cachetory_values_t)]),
    "cachetory_status_name": (c_char_p, [cachetory_status_t]),
    "cachetory_version": (c_char_p, []),
    "cachetory_queue_open": (cachetory_status_t, [POINTER(cachetory_queue_t), _ERROR]),
    "cachetory_queue_close": (cachetory_status_t, [cachetory_queue_t]),
    "cachetory_queue_fd": (c_int, [cachetory_queue_t]),
    "cachetory_queue_wait": (
        cachetory_status_t,
        [cachetory_queue_t, POINTER(cachetory_completion_t), c_size_t, c_int64, POINTER(c_size_t), _ERROR],
    ),
    "cachetory_queue_cancel": (cachetory_status_t, [cachetory_queue_t, c_uint64, _ERROR]),
    "cachetory_completion_free": (None, [POINTER(cachetory_completion_t)]),
    "cachetory_ping_async": (cachetory_status_t, [*_SUBMIT, _ERROR]),
    "cachetory_get_async": (cachetory_status_t, [*_SUBMIT, *_KEY, _ERROR]),
    "cachetory_mget_async": (cachetory_status_t, [*_SUBMIT, *_KEYS, _ERROR]),
    "cachetory_set_async": (
        cachetory_status_t,
        [*_SUBMIT, *_KEY, c_void_p, c_size_t, c_int64, c_uint32, _ERROR],
    ),
    "cachetory_mset_async": (cachetory_status_t, [*_SUBMIT, *_ITEMS, c_int64, c_uint32, _ERROR]),
    "cachetory_expire_in_async": (cachetory_status_t, [*_SUBMIT, *_KEY, c_int64, _ERROR]),
    "cachetory_expire_at_async": (cachetory_status_t, [*_SUBMIT, *_KEY, c_int64, _ERROR]),
    "cachetory_delete_async": (cachetory_status_t, [*_SUBMIT, *_KEY, _ERROR]),
    "cachetory_mdelete_async": (cachetory_status_t, [*_SUBMIT, *_KEYS, _ERROR]),
    "cachetory_clear_async": (cachetory_status_t, [*_SUBMIT, _ERROR]),
}


def load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


lib = load(os.environ["CACHETORY_LIB"])


class CachetoryError(Exception):
    def __init__(self, error: cachetory_error_t) -> None:
        self.status = error.status
        self.flags = error.flags
        self.message = error.message.decode()
        super().__init__(f"{lib.cachetory_status_name(self.status).decode()}: {self.message}")

    @property
    def retryable(self) -> bool:
        return bool(self.flags & ERROR_RETRYABLE)

    @property
    def maybe_applied(self) -> bool:
        return bool(self.flags & ERROR_MAYBE_APPLIED)


def _borrow(data: bytes) -> cachetory_bytes_t:
    """The struct keeps a reference to `data`, and so does an array that it is put into."""
    return cachetory_bytes_t(ctypes.cast(c_char_p(data), POINTER(c_char)), len(data))


def _array(keys: Sequence[bytes]) -> ctypes.Array:
    return (cachetory_bytes_t * len(keys))(*map(_borrow, keys))


class Cache:
    """One handle. A miss is None or False; an error is a CachetoryError."""

    def __init__(self, url: str) -> None:
        self._handle = cachetory_t()
        self._call(lib.cachetory_open_url, url.encode(), byref(self._handle))

    @staticmethod
    def _call(function, *arguments) -> int:
        error = cachetory_error_t()
        status = function(*arguments, byref(error))
        assert status == error.status
        if status < 0:
            raise CachetoryError(error)
        assert error.message == b""
        return status

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        lib.cachetory_close(self._handle)
        self._handle = cachetory_t()

    def ping(self) -> None:
        self._call(lib.cachetory_ping, self._handle)

    def get(self, key: bytes) -> bytes | None:
        value = cachetory_value_t()
        try:
            if self._call(lib.cachetory_get, self._handle, key, len(key), byref(value)) == NOT_FOUND:
                return None
            assert value.data[value.len] == b"\0"
            return ctypes.string_at(value.data, value.len)
        finally:
            lib.cachetory_value_free(byref(value))

    def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        values = cachetory_values_t()
        try:
            self._call(lib.cachetory_mget, self._handle, _array(keys), len(keys), byref(values))
            assert values.len == len(keys)
            items = (values.items[i] for i in range(values.len))
            return [ctypes.string_at(item.data, item.len) if item.data else None for item in items]
        finally:
            lib.cachetory_values_free(byref(values))

    def set(self, key: bytes, value: bytes, ttl_ms: int = NO_EXPIRY, if_not_exists: bool = False) -> bool:
        flags = SET_IF_NOT_EXISTS if if_not_exists else 0
        return OK == self._call(
            lib.cachetory_set, self._handle, key, len(key), value, len(value), ttl_ms, flags
        )

    def mset(self, items: Iterable[tuple[bytes, bytes]], ttl_ms: int = NO_EXPIRY) -> None:
        pairs = [cachetory_item_t(_borrow(key), _borrow(value)) for key, value in items]
        array = (cachetory_item_t * len(pairs))(*pairs)
        self._call(lib.cachetory_mset, self._handle, array, len(pairs), ttl_ms, 0)

    def expire_in(self, key: bytes, ttl_ms: int) -> bool:
        return OK == self._call(lib.cachetory_expire_in, self._handle, key, len(key), ttl_ms)

    def expire_at(self, key: bytes, unix_ms: int) -> bool:
        return OK == self._call(lib.cachetory_expire_at, self._handle, key, len(key), unix_ms)

    def delete(self, key: bytes) -> bool:
        return OK == self._call(lib.cachetory_delete, self._handle, key, len(key))

    def mdelete(self, keys: Sequence[bytes]) -> int:
        deleted = c_uint64()
        self._call(lib.cachetory_mdelete, self._handle, _array(keys), len(keys), byref(deleted))
        return deleted.value

    def clear(self) -> None:
        self._call(lib.cachetory_clear, self._handle)
