"""Listening ports: bound by one process, or reserved by a supervisor for workers that will share them."""

from __future__ import annotations

import errno
import socket

from serving.config import ServerConfig
from serving.errors import StartFailed
from serving.server.fronts.unix_socket import free_socket_file


class SharedPort:
    """Reserves a port with sockets that are bound but don't listen, so that no other program can take it.

    Args:
        host: Address to listen on.
        port: Port; 0 for any free one.

    Raises:
        StartFailed: The port is in use, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int) -> None:
        if port:
            # Without SO_REUSEPORT, binding fails if any process listens, even one that would share the port.
            for bound in bind(host, port, share=False):
                bound.close()
        self._holders = bind(host, port, share=True)
        self.number = self._holders[0].getsockname()[1]
        self.address = format_address(host, self.number)

    def close(self) -> None:
        """Releases the port."""
        for holder in self._holders:
            holder.close()


def check_address(config: ServerConfig) -> str:
    """Returns the address to listen on as gRPC writes it, after checks whose errors say more than gRPC's.

    Raises:
        StartFailed: The socket is in use, or no address is known for the host.
    """
    host, port, path = config.host, config.port, config.socket_path
    if path is not None:
        free_socket_file(path)
        return f"unix:{path}"
    address = format_address(host, port)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StartFailed(f"can't listen on {address}: no address is known for {host!r}") from error
    return address


def cannot_listen(address: str) -> StartFailed:
    """Returns the error for an address that can't be bound."""
    return StartFailed(f"can't listen on {address}: the port is in use or the address is not this machine's")


def bind(host: str, port: int, *, share: bool) -> list[socket.socket]:
    """Binds a socket for each address of a host, all with the same port.

    Args:
        host: Address, or a name that has one or more addresses.
        port: Port; 0 for any free one.
        share: Whether other processes of this user may bind the same port.

    Raises:
        StartFailed: The port is in use, or the address is not this machine's.
    """
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        addresses = dict.fromkeys(
            (family, address[0]) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        for family, address in addresses:
            try:
                sockets.append(_bind(family, str(address), port, share=share))
            except OSError as error:
                failure = error
                if error.errno == errno.EADDRINUSE:
                    raise
                continue  # such as an IPv6 address without IPv6; gRPC ignores it too
            port = sockets[-1].getsockname()[1]
        if not sockets and failure:
            raise failure
    except socket.gaierror as error:
        raise StartFailed(f"can't listen on {format_address(host, port)}: no address is known for {host!r}") from error
    except OSError as error:
        for bound in sockets:
            bound.close()
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else "the address is not this machine's"
        raise StartFailed(f"can't listen on {format_address(host, port)}: {reason}") from error
    return sockets


def bind_metrics_port(config: ServerConfig) -> list[socket.socket]:
    """Binds the sockets for the metrics; none if there is no port for them.

    Raises:
        StartFailed: The port is in use, or the address is not this machine's.
    """
    return [] if config.metrics_port is None else bind(config.tcp_host, config.metrics_port, share=False)


def format_address(host: str, port: int) -> str:
    """Joins a host and a port, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(family: int, address: str, port: int, *, share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may still occupy the port
        if family == socket.AF_INET6:
            # As gRPC does: all addresses means those of both versions.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
