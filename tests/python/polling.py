"""Waiting for what another process does. Nothing here asserts that it is quick, only that it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE = 60  # seconds, for what should take none; where it runs out, something hangs
BETWEEN_LOOKS = 0.01


def poll(what: str, condition: Callable[[], object], patience: float = PATIENCE):
    """Looks until the condition holds, and returns what it then was. `what` says what went wrong if it never does."""
    end = time.monotonic() + patience
    while not (holds := condition()):
        assert time.monotonic() < end, what
        time.sleep(BETWEEN_LOOKS)
    return holds


async def poll_async(
    what: Callable[[], str], condition: Callable[[], object], patience: float = PATIENCE
) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, what()
        await pause()


async def pause() -> None:
    """Between two tries of something that may not succeed yet."""
    await asyncio.sleep(BETWEEN_LOOKS)
