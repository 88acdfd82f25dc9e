"""Sharing the learned rates with the other workers of an account and catalog, about once a second."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import anyio
import psycopg

from syncer.background import background
from syncer.partner_central.pacing import Pacer
from syncer.store.rates import Rates

# Two statements a second are the most that a worker makes for it.
EXCHANGE_EVERY = 1.0
# Who leaves tells the others, if that takes no longer (seconds): they find out by themselves.
LEAVING = 1.0


@asynccontextmanager
async def shared(rates: Rates, pacers: Mapping[str, Pacer]) -> AsyncIterator[None]:
    """Let `pacers`, by operation, go by their shares while the context lasts, and keep what they learned.

    Raises the database's error if it cannot be had at the beginning. Gone later, it is missed by nobody:
    each worker goes on with its own last share.
    """
    worker = secrets.token_hex(4)

    async def exchange(*, leaving: bool = False) -> None:
        now = time.monotonic()
        reports = {
            operation: pacer.report(worker, now, leaving=leaving) for operation, pacer in pacers.items()
        }
        for operation, share in (await rates.exchange(reports)).items():
            if share is not None:
                pacers[operation].share(share, time.monotonic())

    async def keep_exchanging() -> None:
        while True:
            await anyio.sleep(EXCHANGE_EVERY)
            with suppress(psycopg.Error, OSError):
                await exchange()

    await exchange()
    async with background(keep_exchanging):
        yield
    with suppress(psycopg.Error, OSError), anyio.move_on_after(LEAVING):
        await exchange(leaving=True)
