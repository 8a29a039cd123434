"""A port that several processes will share, made sure of before any of them starts."""

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
        self._holders: list[socket.socket] = []
        failure: OSError | None = None
        shown = f"[{host}]" if ":" in host else host
        try:
            addresses = dict.fromkeys(
                (family, address[0]) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            )
            for family, address in addresses:
                try:
                    if port:
                        # Without SO_REUSEPORT this fails where anybody listens, also those who would share.
                        _bind(family, str(address), port, share=False).close()
                    self._holders.append(_bind(family, str(address), port, share=True))
                except OSError as error:
                    failure = error
                    if error.errno == errno.EADDRINUSE:
                        raise
                    continue  # a name's IPv6 address where there is no IPv6: gRPC does without it too
                port = self._holders[-1].getsockname()[1]
            if not self._holders and failure:
                raise failure
        except socket.gaierror as error:
            raise StartFailed(f"can't listen on {shown}:{port}: no address is known for {host!r}") from error
        except OSError as error:
            self.close()
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else "the address is not this machine's"
            raise StartFailed(f"can't listen on {shown}:{port}: {reason}") from error
        self.number = port
        self.address = f"{shown}:{port}"

    def close(self) -> None:
        """Lets the port go."""
        for holder in self._holders:
            holder.close()


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
