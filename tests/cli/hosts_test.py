"""This host in its network: the coordinator's address, ports, and names that others can use."""

import ipaddress
import pathlib
import socket
import subprocess
import sys

import pytest
from processes import two_hosts

from ist_jax.cli import hosts
from ist_jax.cli.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent.parent
H0, H1 = ipaddress.ip_address("192.168.77.1"), ipaddress.ip_address("192.168.77.2")
RIGHT = f"{H0} h0\n{H1} h1"
# Debian's default: a host's own name is 127.0.1.1
OF_DEBIAN = (f"127.0.1.1 h0\n{H1} h1", f"{H0} h0\n127.0.1.1 h1")


@pytest.mark.parametrize(
    "coordinator", ["localhost", "localhost:", ":8476", "h0:port", "h0:0", "h0:65536", "h0:-1", ""]
)
def test_a_coordinator_that_is_no_host_and_port_is_refused(coordinator):
    with pytest.raises(ConfigError, match="is HOST:PORT, such as"):
        hosts.host_and_port(coordinator)


def test_an_unknown_host_is_refused_at_once():
    for host in ("nowhere.invalid", "h" * 70):  # no name is so long
        with pytest.raises(ConfigError, match=f"the host '{host}' is unknown here"):
            hosts.host_and_port(f"{host}:8476")
    assert hosts.host_and_port("localhost:8476") == ("localhost", 8476)
    assert hosts.host_and_port("[::1]:1") == ("::1", 1)


def test_a_port_in_use_is_refused_before_jax_crashes():
    """JAX ends by SIGSEGV, or shares the port if it belongs to the coordinator of another run."""
    with socket.create_server(("localhost", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at port {port} of this host"):
            hosts.check_coordinator(("localhost", port))
        assert hosts.silence(("localhost", port)) is None
    hosts.check_coordinator(("localhost", port))
    assert "refused" in (hosts.silence(("localhost", port)) or "")


def test_process_0_is_on_the_host_of_the_coordinator(capsys):
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    hosts.check_coordinator(("127.0.0.1", port))
    assert capsys.readouterr().err == ""
    hosts.check_coordinator(("203.0.113.7", port))  # an address of documentation
    assert "warning: process 0 listens on this host, and 203.0.113.7 is" in capsys.readouterr().err


def test_a_name_without_an_address_of_this_host_is_refused(monkeypatch):
    """Gloo does not start then, not even for processes of one host."""
    for name in ("nowhere.invalid", "203.0.113.7"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        with pytest.raises(ConfigError, match=f"name '{name}' resolves to no address of this host"):
            hosts.check_name(("localhost", 1))


def test_processes_of_one_host_may_use_its_loopback_address(monkeypatch, capsys):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    for coordinator in (("localhost", 1), ("127.0.0.1", 1), ("::1", 1), None):
        hosts.check_name(coordinator)
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="where other hosts do not reach it: map the name to its"):
        hosts.check_name(None, has_other_hosts=True)


def said(host, call):
    """What a call of `hosts` on one of two hosts returns, or says."""
    code = f"from ist_jax.cli import hosts\ntry: print(hosts.{call})\n"
    code += "except hosts.ConfigError as error: print(error)"
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.run([*host, sys.executable, "-c", code], **options).stdout.strip()


def test_the_address_towards_the_coordinator_is_the_one_it_sees(tmp_path):
    with two_hosts(tmp_path, RIGHT, RIGHT) as (first, second):
        assert said(first, "address_towards(('h0', 1))") == str(H0)
        assert said(second, "address_towards(('h0', 1))") == str(H1)
        assert said(second, "address_towards(('127.0.0.1', 1))") == "127.0.0.1"
        assert said(second, "address_towards(('203.0.113.7', 1))") == "None", "there is no route"
        assert said(second, "own_address('h1')") == str(H1)
        assert said(second, "own_address('h0')") == "None"
        assert said(second, "check_name(('h0', 1))") == "None"


def test_a_name_that_resolves_to_a_loopback_address_is_refused_with_the_right_one(tmp_path):
    refused = "this host's name 'h1' resolves to 127.0.1.1, where other hosts do not reach it: "
    warned = "warning: this host's name 'h0' resolves to 127.0.1.1, where other hosts do not"
    with two_hosts(tmp_path, *OF_DEBIAN) as (first, second):
        says = said(second, "check_name(('h0', 1))")
        assert says.startswith(f"{refused}map the name to {H1} in /etc/hosts"), says
        # process 0 cannot know whether the others are here, if it is told its own name
        says = said(first, "check_name(('h0', 1))")
        assert says.startswith(warned) and says.endswith("\nNone"), says
        says = said(first, f"check_name(('{H0}', 1))")
        assert f"map the name to {H0} in /etc/hosts" in says and "warning" not in says
