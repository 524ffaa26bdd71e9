"""From where images and scenes may be fetched: an allow-list of hosts. Pure functions on text.

An entry is ``HOST``, ``HOST:PORT``, and either with ``=NETWORK``. A host is compared as it is written: other spellings
of an address (decimal, octal, IPv6) are other hosts, and not allowed. What the host's name resolves to must be a public
address, or one in the NETWORK of the entry; the connection goes to that very address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from geosod.errors import ConfigError
from geosod.serving.refused import RefusedError

_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_PORTS = {"http": 80, "https": 443}
_MAX_URL = 4096

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """A host from which the service may fetch.

    Attributes:
        host: in lower case.
        port: None for the usual ones of http and https.
        network: where its addresses must lie; None for public ones.
    """

    host: str
    port: int | None = None
    network: Network | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What is fetched: parts of a URL that was allowed, and the entry that allowed it."""

    scheme: str
    host: str
    port: int
    path: str
    allowed: AllowedHost

    @property
    def is_usual_port(self) -> bool:
        """Whether the port need not be written."""
        return self.port == _PORTS[self.scheme]


def parse_allowed(text: str) -> AllowedHost:
    """An entry of the allow-list.

    Raises:
        ConfigError: it is malformed.
    """
    place, _, network = text.strip().lower().partition("=")
    host, _, port = place.partition(":")
    try:
        found = ipaddress.ip_network(network) if network else None
        number = int(port) if port else None
        if not _NAME.fullmatch(host) or (number is not None and not 0 < number < 65536):
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            f"--allow-host {text!r}: write HOST, HOST:PORT, or HOST=NETWORK for one in a private network, such as "
            "images.example.com or tiles.local:8000=10.0.0.0/8"
        ) from error
    return AllowedHost(host, number, found)


def is_address(text: str) -> bool:
    """Whether text is meant as an address or a path rather than as base64, which has no colon and starts otherwise."""
    return ":" in text[:64] or text.startswith(("//", "/vsi"))


def target_of(url: str, allowed: Sequence[AllowedHost]) -> Target:
    """What a URL names, if that is allowed.

    Raises:
        RefusedError: it is malformed (422) or not allowed (403).
    """
    shown = url[:120]
    if url[:5].lower() == "data:":
        raise RefusedError(422, f"{shown[:40]!r} is a data URL; send what follows its comma, the base64 alone")
    if len(url) > _MAX_URL or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise RefusedError(422, f"{shown!r} is no URL; write https://HOST/PATH, percent-encoded")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise RefusedError(422, f"{shown!r} is no URL; write https://HOST/PATH") from error
    if parts.scheme not in _PORTS:
        raise RefusedError(
            403, f"{shown!r}: only https:// and http:// are fetched; send the content of the file instead"
        )
    if "@" in parts.netloc:
        raise RefusedError(403, "a URL with a user name or password is not fetched; leave them out")
    number = _PORTS[parts.scheme] if port is None else port
    entry = next((a for a in allowed if a.host == host and _fits(a, number)), None)
    if entry is None:
        if ":" in host:
            raise RefusedError(403, f"{shown!r}: an IPv6 address cannot be allowed; name a host")
        where = host if number in _PORTS.values() else f"{host}:{number}"
        raise RefusedError(
            403,
            f"host {where[:120]!r} is not allowed, so nothing is fetched from it; send the content of the file, or "
            f"start the service with --allow-host {where[:120]}",
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, number, path, entry)


def check_address(target: Target, address: Address) -> None:
    """Refuse an address that the host's name resolved to, unless it is public or in the entry's network.

    Raises:
        RefusedError: it is not allowed.
    """
    mapped = getattr(address, "ipv4_mapped", None)
    real: Address = address if mapped is None else mapped
    network = target.allowed.network
    if network is None:
        fits = real.is_global and not real.is_multicast and not _embeds_another(real)
    else:
        fits = real.version == network.version and real in network
    if not fits:
        raise RefusedError(
            403,
            f"host {target.host!r} is at an address that is not public, so nothing is fetched from it; where that is "
            f"meant, start the service with --allow-host {target.host}=NETWORK",
        )


def _fits(entry: AllowedHost, port: int) -> bool:
    return port in _PORTS.values() if entry.port is None else port == entry.port


def _embeds_another(address: Address) -> bool:
    """Whether an IPv6 address leads to an IPv4 address: 6to4, Teredo, or NAT64."""
    if address.version == 4:
        return False
    nat64 = address in ipaddress.ip_network("64:ff9b::/96")
    return nat64 or address.sixtofour is not None or address.teredo is not None
