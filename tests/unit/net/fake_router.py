"""A home router, as far as UPnP's Internet Gateway Device goes: answers SSDP, describes itself, takes port mappings.

Listens for multicast, so it is only ever started within a network namespace of a test's own.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SSDP = ("239.255.255.250", 1900)
_WAN_IP = "urn:schemas-upnp-org:service:WANIPConnection:1"
_DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><friendlyName>router</friendlyName>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:WANCommonInterfaceConfig:1</serviceType>
<controlURL>/common</controlURL><SCPDURL>/common.xml</SCPDURL><eventSubURL>/events</eventSubURL></service></serviceList>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
<serviceList><service><serviceType>{_WAN_IP}</serviceType>
<controlURL>/control</controlURL><SCPDURL>/wan.xml</SCPDURL><eventSubURL>/events</eventSubURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"""


class FakeRouter:
    def __init__(self, external_host: str) -> None:
        self.external_host = external_host
        self.mappings: dict[int, tuple[str, int, int]] = {}
        """External port -> host, port, lease in seconds."""
        self.taken: set[int] = set()
        """External ports that are somebody else's."""
        self.permanent_only = False
        self.removed: list[int] = []

    def answer(self, action: str, body: str) -> str:
        """The SOAP body of the answer. Raises LookupError with a UPnP error code."""
        if action == "GetStatusInfo":
            return (
                "<NewConnectionStatus>Connected</NewConnectionStatus>"
                "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError><NewUptime>1</NewUptime>"
            )
        if action == "GetExternalIPAddress":
            return f"<NewExternalIPAddress>{self.external_host}</NewExternalIPAddress>"
        external = int(_field(body, "NewExternalPort"))
        if action == "DeletePortMapping":
            self.removed.append(external)
            del self.mappings[external]
        elif external in self.taken:
            raise LookupError(718)  # ConflictInMappingEntry
        else:
            lease = int(_field(body, "NewLeaseDuration") or 0)
            if lease and self.permanent_only:
                raise LookupError(725)  # OnlyPermanentLeasesSupported
            client, port = _field(body, "NewInternalClient"), int(_field(body, "NewInternalPort"))
            self.mappings[external] = (client, port, lease)
        return ""


def _field(body: str, name: str) -> str:
    found = re.search(rf"<{name}[^>]*>([^<]*)</{name}>", body)
    return found[1] if found else ""


@contextmanager
def running_router(external_host: str) -> Iterator[FakeRouter]:
    """On 127.0.0.1, reached by multicast over the loopback interface."""
    router = FakeRouter(external_host)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, _DESCRIPTION)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            action = self.headers["SOAPAction"].strip('"').partition("#")[2]
            try:
                inner, status = router.answer(action, body), 200
            except LookupError as error:
                inner, status = f"<UPnPError><errorCode>{error.args[0]}</errorCode></UPnPError>", 500
            tag = f'u:{action}Response xmlns:u="{_WAN_IP}"' if status == 200 else "s:Fault"
            end = tag.partition(" ")[0]
            self._reply(
                status,
                '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
                f"<{tag}>{inner}</{end}></s:Body></s:Envelope>",
            )

        def _reply(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, _ssdp_socket() as ssdp:
        location = f"http://127.0.0.1:{server.server_port}/description.xml"
        threads = [
            threading.Thread(target=server.serve_forever, daemon=True),
            threading.Thread(target=_answer_searches, args=(ssdp, location), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield router
        finally:
            server.shutdown()


def _ssdp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(_SSDP)
    membership = struct.pack("4s4s", socket.inet_aton(_SSDP[0]), socket.inet_aton("127.0.0.1"))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return sock


def _answer_searches(sock: socket.socket, location: str) -> None:
    while True:
        try:
            asked, asker = sock.recvfrom(2048)
        except OSError:
            return
        wanted = re.search(rb"(?im)^ST: *(\S+)", asked)
        if asked.startswith(b"M-SEARCH") and wanted and wanted[1].endswith((b"InternetGatewayDevice:1", b"rootdevice")):
            sock.sendto(
                b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=60\r\nEXT:\r\nLOCATION: " + location.encode()
                + b"\r\nST: " + wanted[1] + b"\r\nUSN: uuid:00::" + wanted[1] + b"\r\nSERVER: test\r\n\r\n",
                asker,
            )  # fmt: skip
