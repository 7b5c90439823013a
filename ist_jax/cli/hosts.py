"""The network addresses of this host, and whether the other hosts of a run can reach it."""

import contextlib
import ipaddress
import os
import socket
import sys

from ist_jax.cli.config import ConfigError
from ist_jax.core.errors import first_line

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Coordinator = tuple[str, int]  # host and port
THIS_HOST = ("localhost", "127.0.0.1", "::1")
PROBE = 5.0  # seconds to wait for an answer


def host_and_port(coordinator: str) -> Coordinator:
    """The parts of HOST:PORT. Raises ConfigError if it has another form or HOST is unknown."""
    host, _, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")  # of an IPv6 address
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"--coordinator is HOST:PORT, such as 10.0.0.1:8476, not {coordinator!r}")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a name
        raise ConfigError(
            f"--coordinator={coordinator}: the host {host!r} is unknown here "
            f"({first_line(error)}): give the name or address of the host of process 0"
        ) from error
    return host, int(port)


def check_coordinator(coordinator: Coordinator) -> None:
    """Checks that process 0 can listen on this host.

    Without this check, JAX would crash, or share a port that is in use. Prints a warning if the
    coordinator's address is not one of this host's: it may be that of a router.

    Raises:
      ConfigError: the port is in use, or not allowed.
    """
    host, port = coordinator
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise ConfigError(
            f"process 0 cannot listen at port {port} of this host ({why}): give all processes a "
            "--coordinator with another port"
        ) from error
    if own_address(host) is None:
        print(
            f"warning: process 0 listens on this host, and {host} is not one of its addresses: "
            "unless it is that of a router to this host, use --process-id 0 on that host only",
            file=sys.stderr,
        )


def silence(coordinator: Coordinator) -> str | None:
    """Why the coordinator does not answer; None if it does."""
    try:
        socket.create_connection(coordinator, PROBE).close()
    except OSError as error:
        return first_line(error)
    return None


def own_address(name: str) -> Address | None:
    """The first address of `name` that belongs to this host; None if none does."""
    with contextlib.suppress(OSError, UnicodeError):
        for family, kind, _, _, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as opened:
                opened.bind(address)
                return ipaddress.ip_address(address[0])
    return None


def address_towards(coordinator: Coordinator) -> Address | None:
    """The address of this host as the coordinator's host sees it; None without a route to it."""
    for family, kind, _, _, address in socket.getaddrinfo(*coordinator, type=socket.SOCK_DGRAM):
        with contextlib.suppress(OSError), socket.socket(family, kind) as opened:
            opened.connect(address)  # chooses a route, and sends nothing
            return ipaddress.ip_address(opened.getsockname()[0])
    return None


def check_name(coordinator: Coordinator | None, has_other_hosts: bool = False) -> None:
    """Checks that other hosts can reach the CPU processes of this host by its name.

    CPU processes exchange data by Gloo, which listens at `own_address` of the name. If it is not
    known whether the run has other hosts, this prints a warning instead of an error.

    Args:
      coordinator: of the run, if it is known.
      has_other_hosts: whether the launcher says that the run has other hosts.

    Raises:
      ConfigError: the run has other hosts, and the name resolves to a loopback address; or the name
        resolves to no address of this host.
    """
    name = socket.gethostname()
    address, towards = own_address(name), address_towards(coordinator) if coordinator else None
    named = f"this host's name {name!r} resolves to"
    has_other_hosts |= towards is not None and not towards.is_loopback
    right = towards if has_other_hosts and towards else "its address in the network"
    remedy = f"map the name to {right} in /etc/hosts"
    if address is None:
        raise ConfigError(f"{named} no address of this host: {remedy}")
    if not address.is_loopback:
        return
    if has_other_hosts:
        raise ConfigError(
            f"{named} {address}, where other hosts do not reach it: {remedy}; if all processes "
            "are on this host, give --coordinator localhost:PORT"
        )
    if coordinator is not None and coordinator[0] not in THIS_HOST:
        print(
            f"warning: {named} {address}, where other hosts do not reach it: if the run has any, "
            f"{remedy}",
            file=sys.stderr,
        )
