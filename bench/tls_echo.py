"""The baseline of `bulk`: a trio TLS server that takes a length and as many bytes, and returns them.

`python -m bench.tls_echo CERTIFICATE.pem` prints its port and serves until it is ended.
"""

from __future__ import annotations

import datetime
import ssl
import sys
from functools import partial
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PIECE_BYTES = 1 << 20


def make_certificate(path: Path) -> Path:
    """A key and its certificate for `localhost`, both in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_usage(), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    return path


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


async def receive_into(stream: trio.SSLStream[trio.SocketStream], out: memoryview) -> None:
    """Raises EOFError when the stream ends before."""
    while out:
        piece = await stream.receive_some(PIECE_BYTES)
        if not piece:
            raise EOFError("the stream ended")
        out[: len(piece)] = piece
        out = out[len(piece) :]


async def _serve(context: ssl.SSLContext, socket: trio.SocketStream) -> None:
    async with trio.SSLStream(socket, context, server_side=True, https_compatible=True) as stream:
        head = bytearray(8)
        await receive_into(stream, memoryview(head))
        taken = bytearray(int.from_bytes(head))
        await receive_into(stream, memoryview(taken))
        view = memoryview(taken)
        for start in range(0, len(view), PIECE_BYTES):
            await stream.send_all(view[start : start + PIECE_BYTES])


async def main(certificate: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(partial(_serve, context), listeners)


if __name__ == "__main__":
    trio.run(partial(main, sys.argv[1]))
