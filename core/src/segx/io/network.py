"""The one door to the network: whatever segx fetches is asked for here, and whatever opens an address by itself asks.

Only the standard library is used; ``http_proxy``, ``https_proxy`` and ``no_proxy`` of the environment are honoured.
A redirect is followed to http(s) only and never from https to http, and credentials stay with the host they were
given for. ``SEGX_OFFLINE`` holds for everything.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import string
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from segx.errors import DataError, reason
from segx.io.paths import OFFLINE_VARIABLE, offline

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

FETCHED = frozenset({"http", "https"})
"""Schemes of addresses that files and images are fetched from."""
_AGENT = "segx"
_CHUNK = 1 << 16
_SECRET = re.compile(r"(?i)([?&;][^=&;]*(?:token|key|sig|secret|passw|pwd|credential|auth)[^=&;]*=)[^&;#]*")


class NotAllowed(DataError):  # noqa: N818 - a reason, as http.client and socket name theirs
    """An address that is not asked for, or an answer that is not followed."""


def allow(address: str, schemes: Collection[str] = FETCHED) -> None:
    """Say no to an address that may not be opened; whatever opens one by itself, as video readers do, asks here.

    Raises:
        NotAllowed: With the reason alone: the network is forbidden, or the scheme is not one of these.
    """
    scheme = address.partition(":")[0].lower()
    if scheme not in schemes:
        raise NotAllowed(f"addresses of kind {scheme[:20]!r} are not fetched")
    if offline():
        raise NotAllowed(f"{OFFLINE_VARIABLE} forbids fetching it")


def is_address(text: str) -> bool:
    """Return True if a text is the address of something that can be fetched."""
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in FETCHED and bool(parts.netloc) and len(text.split()) == 1


def shown(address: str) -> str:
    """Return an address as it may be printed and written down: without passwords and tokens."""
    without = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@", r"\1", address)
    return _SECRET.sub(r"\1***", without)


def request(address: str, headers: Mapping[str, str] | None = None) -> urllib.request.Request:
    """Return a request: spaces and other letters are encoded, a user's name and password become a header.

    Raises:
        NotAllowed: The address is none, or may not be asked for.
    """
    address = address.strip()
    allow(address)
    try:
        parts = urllib.parse.urlsplit(address)
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:  # a UnicodeError is one
        raise NotAllowed(f"it is no address ({error})") from error
    if not host:
        raise NotAllowed("it is no address: it names no host")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port is not None else "")
    path, query = _encoded(parts.path), _encoded(parts.query)
    sent = {"User-Agent": _AGENT, **(headers or {})}
    if parts.username is not None:
        pair = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
        sent["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    url = urllib.parse.urlunsplit((parts.scheme, place, path, query, ""))
    return urllib.request.Request(url, headers=sent)  # noqa: S310 - the opener takes only http(s)


@contextlib.contextmanager
def opened(
    address: str, *, timeout: float, headers: Mapping[str, str] | None = None, within: float | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Give the answer of a server, its body unread.

    Args:
        address: http or https.
        timeout: Seconds without a byte after which the connection is given up.
        headers: What else is sent.
        within: Seconds for all of it, whatever comes in drops; None: the head alone, within two timeouts.

    Raises:
        NotAllowed: The address, or one that the server points to, is not asked for.
        urllib.error.HTTPError: The server says no.
        OSError, http.client.HTTPException: It cannot be reached, breaks off, or takes too long.
    """
    asked = request(address, headers)
    limit = 2 * timeout if within is None else within
    with _Watch(limit) as watch:
        try:
            with _opener(watch).open(asked, timeout=timeout) as response:
                if within is None:
                    watch.stop()
                yield response
        except (OSError, http.client.HTTPException, ValueError) as error:
            if watch.struck:
                raise TimeoutError(f"it took more than {limit:g} s") from error
            raise
        if watch.struck:  # what came looks whole where no length was stated
            raise TimeoutError(f"it took more than {limit:g} s")


def fetch(address: str, *, most: int, within: float, timeout: float = 30.0) -> tuple[bytes, str]:
    """Return the content of an address, and of which kind it is.

    Args:
        address: http or https.
        most: Bytes it may have.
        within: Seconds it may take.
        timeout: Seconds without a byte.

    Raises:
        DataError: With the reason alone, without the address.
    """
    with reported(), opened(address, timeout=timeout, within=within) as response:
        announced = response.headers.get("Content-Length", "")
        length = int(announced) if announced.isdecimal() and len(announced) < 20 else None
        if length is not None and length > most:
            raise DataError(f"it has {length >> 20} MiB, more than the {most >> 20} allowed")
        parts, size, until = [], 0, time.monotonic() + within
        while chunk := response.read1(_CHUNK):
            parts.append(chunk)
            size += len(chunk)
            if size > most:
                raise DataError(f"it has more than the {most >> 20} MiB allowed")
            if time.monotonic() > until:
                raise DataError(f"after {within:g} s only {size} bytes had come")
        if length is not None and size < length:
            raise DataError(f"the connection broke after {size} of {length} bytes")
        return b"".join(parts), _kind(response)


def content_type(address: str, *, timeout: float = 30.0) -> str:
    """Return what kind of content an address holds, lower case, without parameters; empty when it is not said.

    Raises:
        DataError: With the reason alone, without the address.
    """
    with reported(), opened(address, timeout=timeout, within=timeout) as response:
        return _kind(response)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn what goes wrong on the network into a DataError with the reason alone."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            raise DataError(f"the server answers {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(reason_of(error)) from error


def reason_of(error: BaseException) -> str:
    """Return why something could not be fetched, in a few words."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return reason_of(error.reason)
    if isinstance(error, TimeoutError):
        return f"no answer in time ({error})" if error.args and not error.errno else "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return reason(error)


def _kind(response: http.client.HTTPResponse) -> str:
    return str(response.headers.get_content_type()).lower() if response.headers.get("Content-Type") else ""


def _encoded(part: str) -> str:
    """Encode what an address may not hold; what is encoded already stays."""
    part = re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", part)
    return urllib.parse.quote(part, safe=string.punctuation)


class _Watch:
    """Cuts the connections of one question when they have taken too long, whatever comes in drops."""

    def __init__(self, seconds: float) -> None:
        self.struck = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._strike)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._timer.cancel()

    def add(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self.struck:
            self._strike()

    def _strike(self) -> None:
        self.struck = True
        for connection in list(self._sockets):
            with contextlib.suppress(OSError):
                # On a TLS socket its own shutdown would forget the encryption under a reader's hands.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _watched(kind: type[http.client.HTTPConnection], watch: _Watch) -> Any:
    """Return a kind of connection that tells of its socket as soon as it has one, before any encryption."""

    def connect(*args: Any, **kwargs: Any) -> socket.socket:
        made = socket.create_connection(*args, **kwargs)
        watch.add(made)
        return made

    def make(host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = connect  # type: ignore[attr-defined]  # noqa: SLF001 - http.client's own seam
        original = connection.connect

        def connected() -> None:
            original()
            watch.add(connection.sock)

        connection.connect = connected  # type: ignore[method-assign]
        return connection

    return make


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._kind = _watched(http.client.HTTPConnection, watch)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._kind = _watched(http.client.HTTPSConnection, watch)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._kind, req, context=self._context)  # type: ignore[attr-defined]  # typeshed lacks it


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) only, and never from https to http; credentials stay with their host."""

    def redirect_request(  # noqa: PLR0917 - the base class's signature
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in FETCHED or (req.type == "https" and scheme == "http"):
            reason = f"the server points to {shown(newurl)}, which is not safe to follow"
            raise NotAllowed(reason)
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and (following.type, following.host) != (req.type, req.host):
            following.remove_header("Authorization")
        return following


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """Return an opener that speaks http(s), through the environment's proxy, and nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(watch),
        _Https(watch),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
