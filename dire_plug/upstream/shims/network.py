"""Block network connections from upstream's code.

Needed by no line in particular: a download that no shim replaces, or a logger's upload, must fail with a message. Local
(Unix) sockets still work. Programs that upstream starts, and libraries in C, are not reached by this.
"""

import socket
from typing import Any, NoReturn


class NetworkRefusedError(OSError):
    """Upstream's code tried to reach the network."""


def install(*, device: str) -> None:
    """Block connections and name look-ups of Python's `socket` module."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def checked_connect(self: socket.socket, address: Any) -> None:
        _refuse_remote(self, address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_remote(self, address)
        return connect_ex(self, address)

    def look_up(host: object, *args: object, **kwargs: object) -> NoReturn:
        _refuse(host)

    for name, value in {"connect": checked_connect, "connect_ex": checked_connect_ex}.items():
        setattr(socket.socket, name, value)
    for name in ("getaddrinfo", "gethostbyname"):
        setattr(socket, name, look_up)


def _refuse_remote(own: socket.socket, address: object) -> None:
    # Unix sockets stay: the parent's turns and torch's own workers use them
    if own.family != getattr(socket, "AF_UNIX", None):
        _refuse(address)


def _refuse(address: object) -> NoReturn:
    raise NetworkRefusedError(
        f"upstream's code tried to reach {address!r}, but it has no network under dire-plug; if it needs a file from "
        "there, the adapter must hand it one: torchvision's weights by the shim 'hub_weights', a file at a path of the "
        "script's own by 'files' (docs/reference/adapters.md, Shims)"
    )
