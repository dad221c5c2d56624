"""The home folder of a node: its keys, its lock, and where everything else in it stands.

<home>/                 0700
  node.toml             configuration (config.py); optional
  identity.pem          0600  Ed25519 key of the peer id, PKCS8 PEM, encrypted when there is a passphrase
  channel.pem           0600  Ed25519 key that signs vouchers: never the identity's, never a wallet's
  network.key           0600  key of the private network, when the node is in one: a swarm.key as other libp2p programs have
                              it, or encrypted like the other keys when there is a passphrase
  network.name          what its people call that network; optional
  network.fingerprint   its fingerprint, beside an encrypted key, so that looking needs no passphrase
  lock                  held while a node runs, holds its process id
  market.db             what was heard of the market: history, and hints for the next start; may be moved away
  state.sqlite3  ledger.sqlite3  models/  api.sock (or api.path, which says where the socket is)
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cocoon_p2p.config import default_toml
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.key_files import KeyUnreadable, decode_key, encode_key, is_encrypted
from cocoon_p2p.limits import NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.sealing.signing import IdentityKey

log = logging.getLogger(__name__)

HOME_VARIABLE = "COCOON_HOME"
PASSPHRASE_VARIABLE = "COCOON_PASSPHRASE"
PASSPHRASE_FILE_VARIABLE = "COCOON_PASSPHRASE_FILE"
HOME_HINT = "name another: --home DIR"
NAME_BYTES_MAX = 255
"""NAME_MAX of limits.h."""
HOME_BYTES_MAX = 3072
"""PATH_MAX is 4096, and models lie in folders below."""
KEY_FILE_BYTES_MAX = 16 * 1024
PASSPHRASE_BYTES_MAX = 1023
"""OpenSSL takes no longer ones."""
SOCKET_FOLDER_PREFIX = "cocoon-"
SOCKET_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107
"""sockaddr_un.sun_path less its final zero: unix(7)."""


def locate_home(given: str | Path | None = None, configured: str = "") -> Path:
    """The home folder: `given` (--home), else COCOON_HOME, else `configured` (node.toml), else ~/.cocoon.
    Raises ConfigError for one that cannot be: too long a name, or in a folder that is closed to us."""
    chosen = given or os.environ.get(HOME_VARIABLE) or configured or "~/.cocoon"
    try:
        path = Path(chosen).expanduser().absolute()
        _look_at(path)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL; RuntimeError: ~ of an unknown user
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot use the home folder {str(chosen)[:80]}: {reason}", hint=HOME_HINT) from error
    return path


def _look_at(path: Path) -> None:
    """Raises OSError for a path that nothing could be made at, now or later; not that nothing is there."""
    if any(len(os.fsencode(part)) > NAME_BYTES_MAX for part in path.parts):  # its parents may be missing yet
        raise OSError(errno.ENAMETOOLONG, f"a name in it is longer than {NAME_BYTES_MAX} bytes")
    if len(os.fsencode(path)) > HOME_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, f"it is longer than {HOME_BYTES_MAX} bytes")
    with suppress(FileNotFoundError, NotADirectoryError):
        os.stat(path / "node.toml")


@dataclass(frozen=True, slots=True)
class PrivateNetwork:
    """A network that only those with its key can enter, or tell from noise."""

    key: bytes = field(repr=False)
    """32 bytes, libp2p's pre-shared key."""
    name: str = ""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that tell networks apart and give nothing away."""
        from cocoon_p2p.net.transport.private import network_key_fingerprint

        return network_key_fingerprint(self.key)

    @property
    def label(self) -> NetworkLabel:
        return NetworkLabel(self.fingerprint, self.name)


@dataclass(frozen=True, slots=True)
class NetworkLabel:
    """What a private network is told by: nothing secret."""

    fingerprint: str
    name: str = ""


class Home:
    """One node's folder. Making the object touches nothing; the folder exists after `init`."""

    def __init__(self, path: str | Path, *, passphrase_file: str = "") -> None:
        self.path = Path(path)
        self.config_file = self.path / "node.toml"
        self.identity_file = self.path / "identity.pem"
        self.channel_file = self.path / "channel.pem"
        self.network_file = self.path / "network.key"
        self.network_name_file = self.path / "network.name"
        self.network_fingerprint_file = self.path / "network.fingerprint"
        self.lock_file = self.path / "lock"
        self.state_file = self.path / "state.sqlite3"
        self.ledger_file = self.path / "ledger.sqlite3"
        self.market_file = self.path / "market.db"
        self.models_folder = self.path / "models"
        self._socket_file = self.path / "api.sock"
        self._socket_record = self.path / "api.path"
        self._passphrase_file = passphrase_file

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def initialised(self) -> bool:
        """Whether both keys are here."""
        return self.identity_file.exists() and self.channel_file.exists()

    def init(self, *, config_text: str | None = None) -> list[Path]:
        """Make what is missing of folder, keys and node.toml; the files that were made. Never touches one that exists,
        so it may be called at every start and by two processes at once. Raises ConfigError."""
        self._make_folder()
        made = []
        for file in (self.identity_file, self.channel_file):
            if not file.exists() and _create(file, encode_key(os.urandom(32), self._passphrase())):
                made.append(file)
        if config_text is not None or not self.config_file.exists():
            text = default_toml() if config_text is None else config_text
            if _create(self.config_file, text.encode()):
                made.append(self.config_file)
        return made

    def identity(self) -> IdentityKey:
        """The node's identity key. Raises ConfigError: missing, readable by others, corrupt, wrong passphrase."""
        return self._load_key(self.identity_file)

    def channel_key(self) -> IdentityKey:
        """The key that signs this node's vouchers. Raises ConfigError like `identity`."""
        return self._load_key(self.channel_file)

    def private_network(self) -> PrivateNetwork | None:
        """The private network of this home, if it is in one. Raises ConfigError like `identity`."""
        if not self.network_file.exists():
            return None
        return PrivateNetwork(self.read_network_key(self.network_file), _text_of(self.network_name_file))

    def network_label(self) -> NetworkLabel | None:
        """Which private network this home is in, if it is in one; without a passphrase. Raises ConfigError."""
        if not self.network_file.exists():
            return None
        fingerprint = _text_of(self.network_fingerprint_file)
        if fingerprint and is_encrypted(_read_private(self.network_file)):
            return NetworkLabel(fingerprint, _text_of(self.network_name_file))
        network = self.private_network()
        return None if network is None else network.label

    def read_network_key(self, file: Path) -> bytes:
        """The key in a swarm.key file, or in one that this program encrypted. Raises ConfigError."""
        from cocoon_p2p.net.transport.private import parse_network_key

        content = _read_private(
            file, missing_hint="check the path; the key file of a network is a copy of a member's network.key"
        )
        if is_encrypted(content):
            return self._decrypted(file, content)
        try:
            return parse_network_key(content.decode("ascii"))
        except ValueError as error:  # UnicodeDecodeError is one
            raise ConfigError(f"{file} holds no network key", hint="it begins with /key/swarm/psk/1.0.0/") from error

    def enter_private_network(self, network: PrivateNetwork) -> None:
        """Keep its key, from the next start on. Raises ConfigError, also when this home is in a private network already."""
        from cocoon_p2p.net.transport.private import format_network_key

        self._make_folder()
        passphrase = self._passphrase()
        plain = format_network_key(network.key).encode()
        if not _create(self.network_file, plain if passphrase is None else encode_key(network.key, passphrase)):
            raise ConfigError(
                f"this node is in a private network already: {self.network_file}",
                code="IN_PRIVATE_NETWORK",
                hint="leave it first: cocoon-node network leave",
            )
        if passphrase is not None:
            _replace(self.network_fingerprint_file, network.fingerprint.encode())
        if network.name:
            _replace(self.network_name_file, network.name.encode())

    def leave_private_network(self) -> Path:
        """Put the key aside, from the next start on; the file in which it is kept, for nobody else may have it. Raises
        ConfigError when there is none, or nobody can tell which it is of."""
        network = self.network_label()
        if network is None:
            raise ConfigError(
                f"the home {self.path} is in no private network",
                code="NO_PRIVATE_NETWORK",
                hint="there is nothing to leave; `cocoon-node network` says which network a home is in",
            )
        kept = self.path / f"network-{network.fingerprint[:8]}.key"
        self.network_file.replace(kept)
        self.network_name_file.unlink(missing_ok=True)
        self.network_fingerprint_file.unlink(missing_ok=True)
        return kept

    @property
    def encrypted(self) -> bool:
        """Whether the identity key needs a passphrase."""
        return is_encrypted(_read_private(self.identity_file))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home for one node. Raises ConfigError when another process has it. The kernel lets go of the lock
        when the process ends, however it ends."""
        self._make_folder()
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot open {self.lock_file}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._in_use(os.pread(descriptor, 32, 0)) from error
            except OSError as error:
                raise ConfigError(f"cannot lock {self.lock_file}: {error.strerror}") from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def api_socket(self) -> Path:
        """Where the local API of a running node listens, if one runs."""
        try:
            return Path(os.fsdecode(self._socket_record.read_bytes()))
        except FileNotFoundError:
            return self._socket_file
        except OSError as error:
            raise ConfigError(f"cannot read {self._socket_record}: {error.strerror}") from error

    @contextmanager
    def api_socket_place(self) -> Iterator[Path]:
        """For the running node: a path that is free and short enough for a Unix socket. In a deep home it is in a new
        private folder of the temporary directory, and api.path in the home says where. Removed at the end."""
        self.forget_socket()
        private: str | None = None
        place = self._socket_file
        if len(os.fsencode(place)) > SOCKET_PATH_BYTES_MAX:
            private = tempfile.mkdtemp(prefix=SOCKET_FOLDER_PREFIX, dir=os.environ.get("XDG_RUNTIME_DIR") or None)
            place = Path(private) / "api.sock"
        try:
            if private is not None:
                _replace(self._socket_record, os.fsencode(place))
            else:
                self._socket_record.unlink(missing_ok=True)
            place.unlink(missing_ok=True)
            yield place
        finally:
            place.unlink(missing_ok=True)
            if private is not None:
                self._socket_record.unlink(missing_ok=True)
                shutil.rmtree(private, ignore_errors=True)

    def forget_socket(self) -> None:
        """Remove the private folder of a socket that a node which was killed left behind. Not while a node runs here."""
        folder = self.api_socket().parent
        if folder != self.path and folder.name.startswith(SOCKET_FOLDER_PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
            self._socket_record.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not any(self.path.iterdir()):
                self.path.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"cannot make the home folder {self.path}: {error.strerror}") from error

    def _in_use(self, holder: bytes) -> ConfigError:
        by = f" (pid {int(holder)})" if holder.isdigit() else ""
        return ConfigError(
            f"the home folder {self.path} is in use by another node{by}",
            code="HOME_IN_USE",
            hint="stop that node, or give this one a home of its own: --home DIR",
        )

    def _passphrase(self) -> bytes | None:
        """None when no passphrase is set. Raises ConfigError for an empty, overlong or unreadable one."""
        file = os.environ.get(PASSPHRASE_FILE_VARIABLE) or self._passphrase_file
        if PASSPHRASE_VARIABLE in os.environ:
            source, passphrase = PASSPHRASE_VARIABLE, os.fsencode(os.environ[PASSPHRASE_VARIABLE])
        elif file:
            source, passphrase = f"the passphrase file {file}", _first_line(Path(file).expanduser())
        else:
            return None
        if not 0 < len(passphrase) <= PASSPHRASE_BYTES_MAX:
            raise ConfigError(f"{source} must hold 1 to {PASSPHRASE_BYTES_MAX} bytes")
        return passphrase

    def _load_key(self, file: Path) -> IdentityKey:
        from cocoon_p2p.sealing.signing import IdentityKey

        return IdentityKey.from_seed(self._decrypted(file, _read_private(file)))

    def _decrypted(self, file: Path, pem: bytes) -> bytes:
        """The 32 bytes of a key file. Raises ConfigError."""
        passphrase = self._passphrase()
        if is_encrypted(pem) and passphrase is None:
            raise ConfigError(
                f"{file} is encrypted and no passphrase is set",
                hint=f"set {PASSPHRASE_VARIABLE}, or {PASSPHRASE_FILE_VARIABLE} to the name of a file that holds it",
            )
        if passphrase is not None and not is_encrypted(pem):
            log.warning("a passphrase is set, but %s is not encrypted with it", file)
        try:
            return decode_key(pem, passphrase)
        except KeyUnreadable as error:
            hint = "restore it from a backup"
            if is_encrypted(pem):
                hint = f"check {self._passphrase_source()}; if that is right, restore the file from a backup"
            raise ConfigError(f"cannot read the key in {file}: {error}", hint=hint) from error

    def _passphrase_source(self) -> str:
        if PASSPHRASE_VARIABLE in os.environ:
            return PASSPHRASE_VARIABLE
        return f"the passphrase file {os.environ.get(PASSPHRASE_FILE_VARIABLE) or self._passphrase_file}"


def _read_private(file: Path, *, missing_hint: str = "make a new identity: cocoon-node init") -> bytes:
    """A file that only its owner can read, or ConfigError."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            content = opened.read(KEY_FILE_BYTES_MAX)
    except FileNotFoundError as error:
        raise ConfigError(f"{file} is missing", hint=missing_hint) from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(
            f"{file} can be read by others (mode {mode & 0o777:04o})", hint=f"chmod 600 {shlex.quote(str(file))}"
        )
    return content


def _text_of(file: Path) -> str:
    """A short text; "" when there is no such file. Raises ConfigError."""
    try:
        return file.read_text("utf-8")[:NAME_CHARS_MAX].strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def _first_line(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.readline(PASSPHRASE_BYTES_MAX + 1).rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read the passphrase file {file}: {error.strerror}") from error


def _create(file: Path, content: bytes) -> bool:
    """Make `file` with `content` and mode 0600, whole or not at all; False when it exists already."""
    temporary = _written(file, content)
    try:
        os.link(temporary, file)  # unlike a rename, this never replaces a key that another process just made
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot make {file}: {error.strerror}") from error
    finally:
        temporary.unlink()
        _sync(file.parent)
    return True


def _replace(file: Path, content: bytes) -> None:
    _written(file, content).replace(file)


def _written(file: Path, content: bytes) -> Path:
    """`content` on disk beside `file`, under a temporary name, mode 0600."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise ConfigError(f"cannot write in {file.parent}: {error.strerror}") from error
    return Path(name)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
