"""Ports: bound for one process, or held for several that will share one before any of them starts."""

from __future__ import annotations

import errno
import socket

from serving.errors import StartFailed


class SharedPort:
    """Holds a port by sockets that are bound but don't listen: nobody else gets it while no worker listens.

    Args:
        host: Address to listen on.
        port: Port; 0 for any free one.

    Raises:
        StartFailed: The port is in use, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        if port:
            # Without SO_REUSEPORT this fails where anybody listens, also those who would share.
            for bound in bind(host, port, share=False):
                bound.close()
        self._holders = bind(host, port, share=True)
        self.number = self._holders[0].getsockname()[1]
        self.address = f"{shown_host(host)}:{self.number}"

    def close(self) -> None:
        """Lets the port go."""
        for holder in self._holders:
            holder.close()


def bind(host: str, port: int, *, share: bool) -> list[socket.socket]:
    """Binds a socket for each address of a host, all with the same port.

    Args:
        host: Address, or name of some.
        port: Port; 0 for any free one.
        share: Whether other processes of this user may bind it too.

    Raises:
        StartFailed: The port is in use, or the address is not this machine's.
    """
    made: list[socket.socket] = []
    failure: OSError | None = None
    try:
        addresses = dict.fromkeys(
            (family, address[0]) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        for family, address in addresses:
            try:
                made.append(_bind(family, str(address), port, share=share))
            except OSError as error:
                failure = error
                if error.errno == errno.EADDRINUSE:
                    raise
                continue  # a name's IPv6 address where there is no IPv6: gRPC does without it too
            port = made[-1].getsockname()[1]
        if not made and failure:
            raise failure
    except socket.gaierror as error:
        raise StartFailed(f"can't listen on {shown_host(host)}:{port}: no address is known for {host!r}") from error
    except OSError as error:
        for bound in made:
            bound.close()
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else "the address is not this machine's"
        raise StartFailed(f"can't listen on {shown_host(host)}:{port}: {reason}") from error
    return made


def shown_host(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def _bind(family: int, address: str, port: int, *, share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former server may linger
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
