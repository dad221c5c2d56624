"""A small internet of network namespaces: routers with NAT, machines behind them, machines with a firewall. Nothing in it
is connected to the machine's real network.

    45.90.0.0/24  ── a bridge in a namespace of its own: the internet; every public machine and router has a leg there
    10.0.<n>.0/24 ── behind router <n>
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PREFIX = "cocoon-"
_numbers = itertools.count(1)

Nat = Literal["cone", "symmetric"]
"""cone: Linux keeps a connection's port, so one inner port has one outer port; packets come in only from where some went
out to (RFC 4787: address- and port-dependent filtering). symmetric: each connection gets a random outer port."""
_MASQUERADE = {"cone": "masquerade", "symmetric": "masquerade random"}

_FIREWALL = """
table ip firewall {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        %s
        ct state established,related accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        %s
        ct state established,related accept
    }
}
"""
_NAT = """
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "wan" %s
    }
}
"""


def run(*command: str, given: str | None = None) -> str:
    """Raises RuntimeError with what the command said."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace, and its address on the network that it is in."""

    namespace: str
    host: str

    def enter(self, *command: str) -> list[str]:
        """`command`, to be run in there."""
        return ["ip", "netns", "exec", self.namespace, *command]


class Internet:
    """Makes the machines, and removes them all in `close`."""

    def __init__(self) -> None:
        self._name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._namespaces: list[str] = []
        self._hosts = itertools.count(1)
        self._routers = itertools.count(1)
        self._core = self._namespace("core")
        self._ip(self._core, "link add bridge type bridge", "link set bridge up")

    def close(self) -> None:
        """Processes in there must have ended. Interfaces go with their namespaces."""
        for namespace in self._namespaces:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=20, check=False)
        self._namespaces.clear()

    def machine(self, name: str, *, firewall: bool = False) -> Machine:
        """One with a public address; a firewall lets in only answers."""
        machine = self._on_the_internet(name)
        if firewall:
            self._nft(machine.namespace, _FIREWALL % ("", ""))
        return machine

    def router(self, name: str, nat: Nat) -> Machine:
        """One with a public address, and NAT for those `behind` it. It drops what nobody asked for, as home routers do:
        a refusal would end the peer's attempt."""
        router = self._on_the_internet(name)
        self._ip(router.namespace, "link add lan type bridge", "link set lan up")
        self._ip(router.namespace, f"addr add 10.0.{next(self._routers)}.1/24 dev lan")
        run(*router.enter("sysctl", "-qw", "net.ipv4.ip_forward=1"))
        from_inside = 'iifname "lan" accept'
        self._nft(router.namespace, _FIREWALL % (from_inside, from_inside) + _NAT % _MASQUERADE[nat])
        return router

    def behind(self, router: Machine, name: str) -> Machine:
        """A machine with a private address."""
        namespace = self._namespace(name)
        own = run(*router.enter("ip", "-4", "-o", "addr", "show", "lan")).split()[3]
        gateway = own.partition("/")[0]
        host = f"{gateway.rpartition('.')[0]}.{next(self._hosts) + 1}"
        self._cable(namespace, "eth", router.namespace, f"to-{name}"[:15])
        self._ip(router.namespace, f"link set to-{name} master lan")
        self._ip(namespace, f"addr add {host}/24 dev eth", f"route add default via {gateway}")
        return Machine(namespace, host)

    def island(self, *names: str) -> list[Machine]:
        """Machines on a network of their own, 10.77.0.0/24, without a gateway."""
        switch = self._namespace("island")
        self._ip(switch, "link add bridge type bridge", "link set bridge up")
        machines = []
        for number, name in enumerate(names, 1):
            namespace, host = self._namespace(name), f"10.77.0.{number}"
            self._cable(namespace, "eth", switch, f"to-{name}"[:15])
            self._ip(switch, f"link set to-{name} master bridge")
            self._ip(namespace, f"addr add {host}/24 dev eth")
            machines.append(Machine(namespace, host))
        return machines

    def unplug(self, machine: Machine) -> None:
        """Take its address on an island from it."""
        self._ip(machine.namespace, f"addr del {machine.host}/24 dev eth")

    def plug_in(self, machine: Machine) -> None:
        self._ip(machine.namespace, f"addr add {machine.host}/24 dev eth")

    def tunnel(self, machine: Machine, host: str) -> None:
        """Another interface, which takes the default route, as that of a VPN does. It leads nowhere."""
        self._cable(machine.namespace, "tunnel", self._namespace(f"far{next(self._hosts)}"), "end")
        self._ip(machine.namespace, f"addr add {host}/32 dev tunnel", "route replace default dev tunnel")

    def cut(self, machine: Machine) -> None:
        """Pull a public machine's or a router's cable out of the internet."""
        self._ip(machine.namespace, "link set wan down")

    def mend(self, machine: Machine) -> None:
        self._ip(machine.namespace, "link set wan up", "route replace default dev wan")

    def _on_the_internet(self, name: str) -> Machine:
        namespace = self._namespace(name)
        host = f"45.90.0.{next(self._hosts)}"
        self._cable(namespace, "wan", self._core, f"to-{name}"[:15])
        self._ip(self._core, f"link set to-{name} master bridge")
        # The route makes 45.90.0.0/24 all there is, and gives every probe for the machine's own address an answer.
        self._ip(namespace, f"addr add {host}/24 dev wan", "route add default dev wan")
        return Machine(namespace, host)

    def _namespace(self, name: str) -> str:
        namespace = f"{self._name}-{name}"
        self._namespaces.append(namespace)
        run("ip", "netns", "add", namespace)
        self._ip(namespace, "link set lo up")
        return namespace

    def _cable(self, one: str, one_end: str, other: str, other_end: str) -> None:
        run("ip", "link", "add", one_end, "netns", one, "type", "veth", "peer", "name", other_end, "netns", other)
        self._ip(one, f"link set {one_end} up")
        self._ip(other, f"link set {other_end} up")

    def _ip(self, namespace: str, *lines: str) -> None:
        run("ip", "-netns", namespace, "-batch", "-", given="\n".join(lines) + "\n")

    def _nft(self, namespace: str, rules: str) -> None:
        run("ip", "netns", "exec", namespace, "nft", "-f", "-", given=rules)


def remove_leftovers(namespaces: Sequence[str]) -> None:
    """Of sessions that were killed: those whose process is gone."""
    for namespace in namespaces:
        pid = namespace.removeprefix(PREFIX).partition("-")[0]
        if namespace.startswith(PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=20, check=False)
