"""Whom a server answers: under which names it is reached, who holds a token, and what a client is called."""

import hmac
import ipaddress
import logging
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from xpsr.config import ServeConfig
from xpsr.config.checks import said
from xpsr.errors import InputError, XPSRError, printable
from xpsr.files import read_bytes

__all__ = ["Door", "Hosts", "Proxies", "Tokens", "address_of", "is_loopback"]

logger = logging.getLogger(__name__)

_HERE = ("localhost", "127.0.0.1", "[::1]")
"""What every machine calls itself; no name of the DNS can stand for them."""

_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,253})(?::([0-9]{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"(https?)://(.+)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}

_FEWEST = 16
"""Characters of a token. That many at random cannot be tried out."""

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_BEARER = re.compile(rb"bearer +([^ ]+) *", re.IGNORECASE)
_MOST_BYTES = 2**20  # of a file of tokens
_MISTAKES = ("out_of_range", "too_large")  # in such a file, by code


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def address_of(host: str | None) -> str:
    """Returns what a client is called among whom the server is fair: its address, of IPv6 the network of 2^64 of them.

    An owner of one IPv6 address has all of its network.
    """
    if not host:
        return "unknown"
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a proxy's name for somebody
        return printable(host[:64])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Proxies:
    """Those whose word is taken for who a client is.

    Args:
        given: addresses and networks.
    """

    def __init__(self, given: Sequence[str]):
        self._networks = [ipaddress.ip_network(one, strict=False) for one in given]

    def __contains__(self, host: object) -> bool:
        try:
            address = ipaddress.ip_address(str(host).partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._networks)


class Hosts:
    """Names under which a server answers, so that no page from elsewhere reaches it under a name of its own.

    Args:
        host: where it listens. If only this machine reaches that, names are asked for always.
        allowed: more names, at whatever port; if there are any, they are asked for elsewhere, too.

    Raises:
        InputError: one is no name.
    """

    def __init__(self, host: str, allowed: Sequence[str] = ()):
        self._asks = bool(allowed) or is_loopback(host)
        self._names = set(_HERE)
        for name in allowed:
            place = _split(name)
            if place is None:
                message, remedy = f"has '{said(name)}', which is none", "use names such as photos.example.org"
                raise InputError(message, code="out_of_range", field="allowed_hosts", remedy=remedy)
            self._names.add(place[0])
        if is_loopback(host):
            place = _split(f"[{host}]" if ":" in host and not host.startswith("[") else host)
            assert place is not None
            self._names.add(place[0])

    def check(self, host: str | None, origin: str | None) -> None:
        """Refuses a request to another name, or from a page of another host.

        Args:
            host: the header; None: there is none, or there are two.
            origin: the header; None: there is none, as of whoever is no browser.

        Raises:
            InputError: it is refused.
        """
        place = None if host is None else _split(host)
        if self._asks and (place is None or place[0] not in self._names):
            raise _forbidden("Host", host, "is no name of this server", "the operator can allow it by --allowed-host")
        if origin is None:
            return
        match = _ORIGIN.fullmatch(origin)
        page = None if match is None else _split(match[2])
        if match is not None and page is not None and place is not None:
            usual = _PORTS[match[1].lower()]
            if (page[0], page[1] or usual) == (place[0], place[1] or usual):
                return
        remedy = "pages of other hosts cannot use it; a proxy in front of it has to pass the header Host on"
        raise _forbidden("Origin", origin, f"is not the host that was asked, {said(host or 'none')}", remedy)


class Tokens:
    """Lines of a file, of which a request needs one; the file is read again when it changes.

    When it has gone, is empty or cannot be read any more, nobody is let in; a mistake in it leaves the tokens as they
    were, so that a slip of whoever edits it shuts nobody out.

    Args:
        path: the file, of ASCII; blank lines and those that begin with # are passed over.

    Raises:
        InputError: it cannot be read, or a line is no token.
    """

    def __init__(self, path: Path):
        self._path, self._key = path, secrets.token_bytes(32)
        self._stamp, self._digests = self._look(), self._read()

    def holder(self, token: bytes) -> str | None:
        """Returns what a token's holder is called, until the server ends, or None: it is none."""
        self._renew()
        given, found = self._digest(token), None
        for digest in self._digests:  # every one, so that the time tells nothing
            if hmac.compare_digest(given, digest):
                found = digest
        return None if found is None else found.hex()[:12]

    def _renew(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests = self._read()
            logger.warning("%s: was read again; it has %d tokens.", self._path, len(self._digests))
        except InputError as error:
            if error.code in _MISTAKES:
                logger.error("%s The tokens that were read before stay.", error)
            else:
                self._digests = ()
                logger.error("%s Nobody is let in until it holds tokens.", error)

    def _look(self) -> tuple[int, ...] | None:
        try:
            place = self._path.stat()
        except OSError:
            return None
        return place.st_ino, place.st_size, place.st_mtime_ns, place.st_ctime_ns

    def _digest(self, token: bytes) -> bytes:
        return hmac.digest(self._key, token, "sha256")  # by a key that nobody has: logs show its beginning

    def _read(self) -> tuple[bytes, ...]:
        tokens: dict[bytes, None] = {}
        for number, line in enumerate(read_bytes(self._path, limit=_MOST_BYTES).splitlines(), 1):
            token = line.strip()
            if not token or token.startswith(b"#"):
                continue
            if not _TOKEN.fullmatch(token):
                raise self._no_token(f"line {number} holds what no token has", "use letters, digits and -._~+/ alone")
            if len(token) < _FEWEST:
                message = f"line {number} has {len(token)} characters, and a token needs {_FEWEST}"
                raise self._no_token(message, "make one with: openssl rand -hex 24")
            tokens[token] = None
        if not tokens:
            raise self._no_token("holds no token", "write one a line", code="missing")
        return tuple(map(self._digest, tokens))

    def _no_token(self, message: str, remedy: str, *, code: str = "out_of_range") -> InputError:
        return InputError(f"{self._path}: {message}", code=code, remedy=remedy)


class Door:
    """All that decides whether a request is looked at.

    Args:
        config: of the server.

    Raises:
        InputError: a name or the file of tokens is not as it should be.
    """

    def __init__(self, config: ServeConfig):
        self._hosts = Hosts(config.host, config.allowed_hosts)
        self._tokens = None if config.token_file is None else Tokens(config.token_file)

    def admit(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Returns the owner of what a request makes: the token's holder, or "" where none is asked for.

        Raises:
            XPSRError: it is refused, as "forbidden" or "unauthorized".
        """
        if path in ("/healthz", "/readyz"):  # whoever asks for them does so by an address, and learns nothing
            return ""
        self._hosts.check(_only(headers, b"host"), _only(headers, b"origin", twice="null"))
        if self._tokens is None or path in ("/", "/openapi.json") or path.startswith("/page/"):
            return ""
        given = [value for name, value in headers if name == b"authorization"]
        match = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
        holder = None if match is None else self._tokens.holder(match[1])
        if holder is None:
            message = "no token came with the request" if not given else "the token is none of this server's"
            raise XPSRError(message, code="unauthorized", remedy="send Authorization: Bearer TOKEN")
        return holder


def _only(headers: Sequence[tuple[bytes, bytes]], name: bytes, *, twice: str | None = None) -> str | None:
    """The header of a name, if there is one; `twice` where there are several."""
    values = [value.decode("latin-1") for key, value in headers if key == name]
    return values[0] if len(values) == 1 else twice if values else None


def _split(text: str) -> tuple[str, int | None] | None:
    """Name and port of a host, or None: it is none."""
    match = _HOST.fullmatch(text)
    if match is None:
        return None
    name, port = match[1].lower(), match[2]
    if name.startswith("["):
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1])}]"
        except ValueError:
            return None
    return name.removesuffix("."), None if port is None else int(port)


def _forbidden(field: str, value: str | None, message: str, remedy: str) -> InputError:
    return InputError(message, code="forbidden", field=field, value=said(value or ""), remedy=remedy)
