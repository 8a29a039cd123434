"""Where a server is, and how to connect to it: its address as users write it, made into one that gRPC dials."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from serving.config import is_loopback
from serving.errors import InvalidConfig

DEFAULT_PORT = 50051

# A server that listens on all addresses prints one of these; on its own machine it answers here.
_ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "[::]": "localhost"}  # noqa: S104
# Schemes that gRPC resolves itself; https://github.com/grpc/grpc/blob/master/doc/naming.md.
_SCHEMES = re.compile(r"(dns|ipv4|ipv6|unix|unix-abstract|vsock|xds|google-c2p):")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server's address with everything that a channel to it needs.

    Attributes:
        address: What gRPC dials; see `dialled`.
        options: Options of the channel.
        credentials: TLS; None for plain text.
    """

    address: str
    options: Sequence[tuple[str, Any]]
    credentials: grpc.ChannelCredentials | None

    def channel(self) -> grpc.Channel:
        """Makes a channel, which connects on its first call."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, self._all_options)
        return grpc.secure_channel(self.address, self.credentials, self._all_options)

    def aio_channel(self) -> grpc.aio.Channel:
        """Makes a channel for the running event loop, which connects on its first call."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, self._all_options)
        return grpc.aio.secure_channel(self.address, self.credentials, self._all_options)

    @property
    def _all_options(self) -> list[tuple[str, Any]]:
        # gRPC sends all calls through the proxy of http_proxy unless no_proxy names the host, even to this machine.
        return [*self.options, *([("grpc.enable_http_proxy", 0)] if is_this_machine(self.address) else [])]


def dialled(address: str) -> str:
    """Returns the address that gRPC dials.

    Args:
        address: `host:port`; `host`, for port 50051; an IPv6 address, in brackets if a port follows; `unix:path`; or
            another address of gRPC's. 0.0.0.0 and [::], which a server prints if it listens on all addresses, mean this
            machine.

    Raises:
        InvalidConfig: It is not an address.
    """
    address = address.strip()
    if _SCHEMES.match(address):
        return address
    if "://" in address:
        raise InvalidConfig(f"{address!r} is a URL, but an address is like 127.0.0.1:{DEFAULT_PORT}")
    host, port = _split(address)
    if not host or "/" in host or any(map(str.isspace, host)):
        raise InvalidConfig(f"{address!r} is not an address like 127.0.0.1:{DEFAULT_PORT}")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InvalidConfig(f"{address!r}: the port must be a number from 1 to 65535, not {port!r}")
    return f"{_ALL_ADDRESSES.get(host, host)}:{port}"


def is_this_machine(address: str) -> bool:
    """Whether an address that gRPC dials is on this machine, so that calls cross no network."""
    scheme = _SCHEMES.match(address)
    if scheme and scheme[1] in ("unix", "unix-abstract"):
        return True
    return is_loopback(address.removeprefix(scheme[0] if scheme else "").rpartition("/")[2].rpartition(":")[0])


def _split(address: str) -> tuple[str, str]:
    """Returns host and port; the host of an IPv6 address is in brackets."""
    try:
        return f"[{ipaddress.IPv6Address(address)}]", str(DEFAULT_PORT)
    except ValueError:
        pass
    if found := re.fullmatch(r"(\[[^\[\]]+\])(?::(.*))?", address):
        return found[1], str(DEFAULT_PORT) if found[2] is None else found[2]
    if address.count(":") > 1:
        raise InvalidConfig(f"{address!r}: an IPv6 address with a port is like [::1]:{DEFAULT_PORT}")
    host, colon, port = address.partition(":")
    return host, port if colon else str(DEFAULT_PORT)
