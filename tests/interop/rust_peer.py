"""A rust-libp2p peer in the shape of `lattica`, driven by JSON lines (foreign.py).

    rust_peer.py <folder that lattica is installed in> <Kademlia protocol> <host> [bootstrap address …]

Lattica is an application: it offers identify, ping and Kademlia to others, dials its bootstrap peers only, and hangs up on
whoever does not name the same protocol version in identify.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from typing import Any

FOLDER, PROTOCOL, HOST, *BOOTSTRAP = sys.argv[1:]
sys.path.insert(0, FOLDER)
from lattica_python_core import LatticaSDK  # noqa: E402

_POLL_S = 0.02


class Peer:
    def __init__(self, home: str) -> None:
        with socket.socket() as probe:  # lattica does not tell on which port it listens
            probe.bind((HOST, 0))
            self.address = f"/ip4/{HOST}/tcp/{probe.getsockname()[1]}"
        settings: dict[str, Any] = {f"with_{name}": False for name in ("mdns", "upnp", "autonat", "dcutr")}
        settings |= {"listen_addrs": [self.address], "protocol": PROTOCOL, "bootstrap_nodes": BOOTSTRAP}
        settings |= {"key_path": f"{home}/key", "storage_path": f"{home}/blocks", "dht_db_path": f"{home}/dht"}
        self.sdk = LatticaSDK(settings)

    def do_identify(self, peer: str) -> dict[str, Any]:
        while (info := self.sdk.get_peer_info(peer)) is None or not info.agent_version:
            time.sleep(_POLL_S)
        return {"agent": info.agent_version, "protocols": info.protocols, "addresses": info.listen_addresses}

    def do_ping(self, peer: str) -> float:
        while (round_trip_s := self.sdk.get_peer_rtt(peer)) is None:
            time.sleep(_POLL_S)
        return float(round_trip_s)

    def do_put(self, key: str, value: str) -> None:
        self.sdk.store_with_subkey(key, value.encode(), time.time() + 600, None)


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        peer = Peer(home)
        say(peer_id=peer.sdk.peer_id(), addresses=[peer.address], version="rust-libp2p, lattica 1.0.21")
        for line in sys.stdin:
            request = json.loads(line)
            number, name = request.pop("id"), request.pop("do")
            try:
                say(id=number, ok=getattr(peer, f"do_{name}")(**request))
            except Exception as error:  # noqa: BLE001  (whatever it is, the test wants to know)
                say(id=number, error=repr(error))


if __name__ == "__main__":
    main()
