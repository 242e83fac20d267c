"""Serve the page until Ctrl-C: a bound socket, an address to open, and at the end what the round has come to."""

import os
import secrets
import socket
import sys
import threading
import webbrowser

import uvicorn
from starlette.types import ASGIApp

from ..errors import BadInput
from ..preferences.assignment import Assignment
from ..progress import say
from .app import NextStep, application
from .security import Door, is_loopback

PORT = 8710
"""Always the same, since a browser keeps unsent votes by address and port."""
ANYWHERE = ("0.0.0.0", "::", "")
SHORT_TOKEN = 16


def serve(
    assignment: Assignment,
    *,
    annotator: str | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: str | None = None,
    open_browser: bool = True,
    next_step: NextStep | None = None,
) -> None:
    """Serve ``assignment`` on ``host``:``port`` until Ctrl-C, then return; the same call continues the round.

    ``annotator`` is who votes where the page's address names nobody; None asks. A ``host`` that other machines can
    reach needs a ``token``, which is made if not given; on loopback it is asked for only if given. Port 0 is any free
    one. ``next_step`` tells, of a summary, the command for the end of the round. Raises `BadInput` for an address that
    cannot be used.
    """
    token = token or None
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    if token is not None and len(token) < SHORT_TOKEN:
        say(f"a token of {len(token)} characters can be guessed; leave --token out, and a long one is made")
    listening = bound(host, port)
    door = Door(host, listening.getsockname()[1], token)
    try:
        server = prepared(application(assignment, door, annotator, next_step))
        address = f"{reached_at(door)}/" + (f"?token={door.token}" if door.token else "")
        say(f"label at {address}\nCtrl-C ends; every vote is on disk, and the same command continues")
        if open_browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with assignment.pairs.store.at_work():
            server.run(sockets=[listening])
    except KeyboardInterrupt:
        say("")
    finally:
        listening.close()


def prepared(app: ASGIApp) -> uvicorn.Server:
    """Return a server of ``app`` that believes no proxy's headers, says nothing of itself, and logs errors only."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
    )


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that whoever opens the address from now on is served.

    Raises `BadInput` for an address that cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio spares only sockets that name it Nagle's wait: 40 ms an answer, else.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # at once again after a crash
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"--host {host} --port {port}: {reason}; another --port, or 0 for any free one") from None
    return listening


def reached_at(door: Door) -> str:
    """Return the address at which others reach what listens there: by this machine's name, if on all its addresses."""
    host = socket.gethostname() if door.host in ANYWHERE else door.host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{door.port}"


def _has_screen() -> bool:
    """Return whether a browser would open in a window; one for the terminal would take it over."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
