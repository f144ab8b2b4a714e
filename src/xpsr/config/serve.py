"""What `xpsr serve` is told."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from xpsr.config.checks import Checked, fault, option, within
from xpsr.config.upscale import UpscaleConfig
from xpsr.errors import InputError

__all__ = ["ServeConfig"]

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(.+)", re.DOTALL)

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

    host: str = option("127.0.0.1", "Address to listen at; 0.0.0.0 is all of this machine's.")
    port: int = option(8000, "0: any that is free.", within(0, 65535, "8000"))
    models: tuple[str, ...] = option(("mini",), "NAME or NAME=WHERE; the first is the default.")
    describers: tuple[str, ...] = option(("mini",), "NAME or NAME=WHERE; the first is the default.")
    devices: tuple[str, ...] = option(("auto",), "A worker for each.")
    token_file: Path | None = option(None, "Lines of tokens, of which a request needs one; null: no request does.")
    allowed_hosts: tuple[str, ...] = option((), "Names under which the server is reached, beside those of the machine.")
    forwarded_allow_ips: tuple[str, ...] = option((), "Addresses of proxies whose X-Forwarded-For is believed.")
    page: bool = option(True, "Whether there is a page for people.")
    max_bytes: int = option(2**26, "Of a picture's file.", within(1, 2**40, "67108864"))
    max_pixels: int = option(2**24, "Of a picture, width times height.", within(1, 2**40, "16777216"))
    max_output_pixels: int = option(2**26, "Of a result.", within(1, 2**40, "67108864"))
    max_seconds: float = option(600.0, "From the upload to the result.", within(0.1, 10**6, "600"))
    upload_seconds: float = option(60.0, "For an upload.", within(0.1, 10**6, "60"))
    max_queue: int = option(64, "Requests that wait or are worked on; more are told to come later.", within(1, 10**6))
    max_per_client: int = option(16, "Of them, of one client.", within(1, 10**6, "16"))
    keep_seconds: float = option(3600.0, "How long results are kept.", within(1, 10**7, "3600"))
    drain_seconds: float = option(60.0, "For what is in hand when the server is to end.", within(0, 10**5, "60"))
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
        for name in ("models", "describers", "devices"):
            if not getattr(self, name):
                raise fault(self, name, "are none", "name one")
        for name in ("models", "describers"):
            self.named(name)

    def named(self, kind: str) -> dict[str, str]:
        """Returns what clients choose among, "models" or "describers": where each is, by its name.

        Raises:
            InputError: two have one name.
        """
        given: Sequence[str] = getattr(self, kind)
        found: dict[str, str] = {}
        for text in given:
            match = _NAMED.fullmatch(text)
            name, where = match.groups() if match else (re.split(r"[/#\\]", text.rstrip("/\\"))[-1] or text, text)
            if name in found:
                message, remedy = f"has two that are called {name}", f"call one of them otherwise, as {name}2={where}"
                raise InputError(message, code="conflict", field=kind, remedy=remedy)
            found[name] = where
        return found
