"""What `xpsr serve` is told."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from xpsr.config.checks import Checked, Pattern, fault, option, said, within
from xpsr.config.upscale import UpscaleConfig
from xpsr.errors import InputError

__all__ = ["ServeConfig"]

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")  # of what has none of its own: a model of Ollama's has a colon

_ADDRESS = Pattern(r"[!-~]+", "an address", "127.0.0.1")
_HOST = Pattern(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?", "a host's name", "photos.example.org")

_OF_SERVER = frozenset(
    {
        *("model", "device", "describer", "memory", "max_pixels", "max_bytes", "priors", "content", "quality"),
        *("seed", "protect", "on_existing"),
    }
)
"""Fields of `UpscaleConfig` that the server itself is told, or each request."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Checked):
    """How `xpsr serve` answers, whom, and how much it takes on."""

    host: str = option("127.0.0.1", "Address to listen at; 0.0.0.0 is all of this machine's.", _ADDRESS)
    port: int = option(8000, "0: any that is free.", within(0, 65535))
    models: tuple[str, ...] = option(("mini",), "NAME or NAME=WHERE; the first is the default.")
    describers: tuple[str, ...] = option(("mini",), "NAME or NAME=WHERE; the first is the default.")
    devices: tuple[str, ...] = option(("auto",), "A worker for each.")
    token_file: Path | None = option(None, "Lines of tokens, of which a request needs one; null: no request does.")
    allowed_hosts: tuple[str, ...] = option((), "Names under which the server is reached, beside those of the machine.")
    forwarded_allow_ips: tuple[str, ...] = option((), "Addresses of proxies whose X-Forwarded-For is believed.")
    page: bool = option(True, "Whether there is a page for people.")
    max_bytes: int = option(2**26, "Of a picture's file.", within(1, 2**40))
    max_pixels: int = option(2**24, "Of a picture, width times height.", within(1, 2**40))
    max_output_pixels: int = option(2**26, "Of a result.", within(1, 2**40))
    max_seconds: float = option(600.0, "Of work on a picture.", within(0.1, 10**6))
    wait_seconds: float = option(600.0, "From an upload's beginning to when its work begins.", within(0.1, 10**6))
    upload_seconds: float = option(60.0, "For an upload.", within(0.1, 10**6))
    max_queue: int = option(64, "Requests that wait or are worked on; more are told to come later.", within(1, 10**6))
    max_per_client: int = option(16, "Requests and uploads of one client.", within(1, 10**6))
    keep_seconds: float = option(
        3600.0, "How long results are kept, while there is room on the disk.", within(1, 10**7)
    )
    drain_seconds: float = option(60.0, "For what is in hand when the server is to end.", within(0, 10**5))
    memory: str | None = None  # of a worker; `UpscaleConfig` checks it
    spool: Path | None = option(None, "Folder of uploads and results while they are kept; null: the system's own.")
    upscale: UpscaleConfig = option(UpscaleConfig(), "What holds where a request says nothing else.")

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        UpscaleConfig(memory=self.memory)
        usual = UpscaleConfig()
        for name in (f.name for f in fields(UpscaleConfig)):
            if name in _OF_SERVER and getattr(self.upscale, name) != getattr(usual, name):
                raise fault(self.upscale, name, "is of the server, or of each request", "leave it out").within(
                    "upscale"
                )
        if self.upscale.c2pa is not None:  # what signs reads strangers' pictures in the process that knows the key
            raise fault(self.upscale, "c2pa", "is not for strangers' pictures", "leave it out").within("upscale")
        for name in ("models", "describers", "devices"):
            given = getattr(self, name)
            if not given or not all(given):
                raise fault(self, name, "are none" if not given else "has an empty one", "name one")
        for name in ("models", "describers"):
            self.named(name)
        for name, fits, remedy in (
            ("allowed_hosts", _is_host, "use names such as photos.example.org"),
            ("forwarded_allow_ips", _is_network, "use addresses such as 10.0.0.1, or 10.0.0.0/8"),
        ):
            for one in getattr(self, name):
                if not fits(one):
                    message = f"has '{said(one)}', which is none"
                    raise InputError(message, code="out_of_range", field=name, remedy=remedy)

    def named(self, kind: str) -> dict[str, str]:
        """Returns what clients choose among, "models" or "describers": where each is, by its name.

        One without a name of its own is called by the end of where it is: a folder's name, or the model's of a server.

        Raises:
            InputError: two have one name, or one has a name that nobody should see or type.
        """
        given: Sequence[str] = getattr(self, kind)
        found: dict[str, str] = {}
        for text in given:
            match = _NAMED.fullmatch(text)
            name, where = match.groups() if match else (re.split(r"[/#?\\]", text.rstrip("/\\"))[-1], text)
            if not _NAME.fullmatch(name):  # not told here: a server's address may hold a key
                message = "has one that letters, digits and . _ - alone cannot call"
                raise InputError(message, code="bad_name", field=kind, remedy="give it a name, as in NAME=WHERE")
            if name in found:
                message, remedy = f"has two that are called {name}", f"call one of them otherwise, as in {name}2=WHERE"
                raise InputError(message, code="conflict", field=kind, remedy=remedy)
            if kind == "describers" and name == "none" and where != "none":
                message, remedy = "has one that is called none, which is who says nothing", "call it otherwise"
                raise InputError(message, code="conflict", field=kind, remedy=remedy)
            found[name] = where
        return found


def _is_host(text: str) -> bool:
    return _HOST(text) is None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
