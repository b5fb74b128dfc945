"""Run an application on an address until interrupted."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from ken.core import BadInput


def listen(app: Any, *, host: str, port: int, what: str = "Ken", path: str = "/") -> None:
    """Serve `app`. Prints the address once it accepts connections, also when `port` is 0.

    Raises `BadInput` for a port in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"cannot listen on {host} port {port} ({error.strerror or error}); choose another with --port"
            ) from error
        listener.listen(128)
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {what} at http://{shown}:{listener.getsockname()[1]}{path} (ctrl-c ends)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
