"""An application as a process: uvicorn until SIGTERM or Ctrl-C, then what is in flight is finished."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from services.http.settings import HttpSettings

KEEPALIVE_S = 15
"""Longer than our clients' own, so that they are the ones who close an idle connection."""


def serve(app: FastAPI, host: str, port: int, settings: HttpSettings) -> None:
    """Exits 1 where the port is taken."""
    # What is loaded by now stays: the collector need not walk through it again, in the middle of a request.
    gc.collect()
    gc.freeze()
    # uvicorn raises the signal again once it has stopped: asked to stop and stopped is a success.
    signal.signal(signal.SIGTERM, _exit)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
    )


def _exit(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)
