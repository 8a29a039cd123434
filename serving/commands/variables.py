"""The environment variables `DIGITS_…`: which there are, which of them Kubernetes sets, and which nobody reads."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

import click

PREFIX = "DIGITS"

# For a Service named digits or digits-http, Kubernetes gives every pod of its namespace variables like those that
# Docker's links had: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables.
_LINK = re.compile(r"(tcp|udp|sctp)://")
_OF_LINKS = re.compile(
    rf"{PREFIX}(_\w+)?(_SERVICE_HOST|_SERVICE_PORT(_\w+)?|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# Read without an option: the token itself, and a name that is refused with the reason.
_OTHERS = {f"{PREFIX}_TOKEN", f"{PREFIX}_VERSION"}


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set a variable to the address of a Service. No option for a port takes such a value."""
    return name.endswith("_PORT") and _LINK.match(value) is not None


def variables_of(*params: click.Parameter) -> list[str]:
    """Returns the variables that set options of a server, or options that name their variable themselves."""
    names: list[str] = []
    for param in params:
        if param.envvar is not None:
            names += [param.envvar] if isinstance(param.envvar, str) else param.envvar
        elif isinstance(param, click.Option) and param.allow_from_autoenv and param.name:
            names.append(f"{PREFIX}_{param.name.upper()}")
    return names


def doubtful_variables(environment: Mapping[str, str], options: Iterable[str]) -> Iterator[str]:
    """Yields a sentence about variables that are set but have no effect.

    Args:
        environment: All variables.
        options: The variables of all commands that may share this environment.
    """
    known = _OTHERS.union(options)
    ours = sorted(name for name in environment if name.startswith(f"{PREFIX}_"))
    links = [name for name in ours if is_service_link(name, environment[name])]
    if ignored := [name for name in links if name in known]:
        yield (
            f"ignored {', '.join(ignored)}: Kubernetes sets such variables for a Service whose name begins with "
            f"{PREFIX.lower()}; enableServiceLinks: false in the pod's spec prevents it"
        )
    for name in ours:
        if name in known or name in links or _OF_LINKS.fullmatch(name):
            continue
        start = len(PREFIX)  # which makes any two of them alike
        near = difflib.get_close_matches(name[start:], [other[start:] for other in known], n=1, cutoff=0.7)
        yield f"unknown variable {name}" + (f"; did you mean {PREFIX}{near[0]}?" if near else "")
