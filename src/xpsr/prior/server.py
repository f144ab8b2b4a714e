"""Multimodal language models behind an OpenAI-compatible HTTP API: vLLM, Ollama, llama.cpp, hosted ones.

The requests are made with the standard library: there is nothing to install, and no redirect is followed, so neither
picture nor key ever goes to another host than the one that was named.
"""

import base64
import io
import json
import math
import os
import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from xpsr.errors import InputError, ModelError
from xpsr.prior.asking import Aspect, name_picture, report_no_text, usable_text, view_picture
from xpsr.prior.texts import QUESTIONS, Prior, Questions

if TYPE_CHECKING:  # they load torch
    from PIL import Image

    from xpsr.image import ImageLike, Picture

__all__ = ["ServerDescriber"]

_FIRST_WAIT = 0.5  # seconds before the second attempt; before each further one twice as long
_LONGEST_WAIT = 60.0
_MOST_BYTES = 2**22  # of an answer
_PNG_PIXELS = 512 * 512  # larger views for the content question go as JPEG
_SECOND_TRY = {"temperature": 0.7, "seed": 0}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ServerDescriber:
    """Asks a model behind `POST {url}/chat/completions`.

    The server sees what `questions` shows of every picture. The API key is read from the environment at each request
    and appears in no message.

    Args:
        url: base address, such as http://localhost:11434/v1.
        model: what the server calls the model.
        questions: what is asked, and what is shown; an empty question is not asked and its text stays empty.
        concurrency: pictures that are asked about at a time.
        timeout: seconds that the server may be silent, or take to send an answer once it has begun.
        retries: further attempts where the server cannot be reached, is overloaded, fails or answers with no answer.
        max_tokens: longest answer.
        api_key_variable: of the environment; where it is not set, OPENAI_API_KEY, which is sent encrypted or to this
            machine only.

    Raises:
        InputError: an option is out of range, or the address cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        questions: Questions = QUESTIONS["default"],
        concurrency: int = 4,
        timeout: float = 60.0,
        retries: int = 3,
        max_tokens: int = 200,
        api_key_variable: str = "XPSR_API_KEY",
    ):
        for option, value, least in (
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
            ("max_tokens", max_tokens, 1),
        ):
            if value < least:
                raise InputError(f"{option}={value} is less than {least}; use {least} or more.")
        if not 0 < timeout < math.inf:
            raise InputError(f"timeout={timeout} is not a positive number of seconds; use 60.")
        self._endpoint, self._shown, host = _endpoint(url)
        if not model:
            raise InputError(f"{self._shown}: name the model behind #, as in http://localhost:11434/v1#qwen2.5vl.")
        self.name = f"{self._shown}#{model}"
        self.revision: str | None = None
        self.questions: Questions = questions
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.max_tokens = max_tokens
        self._model = model
        self._api_key_variable = api_key_variable
        self._is_private = self._endpoint.startswith("https:") or host in _LOOPBACK
        # a proxy has nothing to do with a server on this machine, whatever the environment says
        proxies = urllib.request.ProxyHandler({} if host in _LOOPBACK else None)
        self._opener = urllib.request.build_opener(_NoRedirects, proxies)
        self._random = random.Random()

    def __repr__(self) -> str:
        return f"ServerDescriber({self.name!r})"

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """One prior for each of `images`, in their order. An answer that cannot be used is asked for once more; then
        the text stays empty and a warning names the picture.

        When a picture cannot be read or the server fails for good, the others are given up too: call this with a few
        pictures at a time, and keep what it returns.

        Args:
            images: whatever `to_picture` takes.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: a picture cannot be used, or the server refuses this one (400, 413, 415, 422).
            ModelError: the server cannot be reached, refuses, or answers with something else than a chat completion.
        """
        given_up = threading.Event()
        todo: SimpleQueue[tuple[int, ImageLike]] = SimpleQueue()
        done: SimpleQueue[tuple[int, Prior | BaseException]] = SimpleQueue()
        for item in enumerate(images):
            todo.put(item)

        def work() -> None:
            while not given_up.is_set():
                try:
                    index, image = todo.get_nowait()
                except Empty:
                    return
                try:
                    done.put((index, self._describe(image, name_picture(image, index), given_up)))
                except BaseException as error:  # it is raised where the answer is waited for
                    done.put((index, error))

        # no pool of the standard library: Python would not end before the last silent server had answered
        for _ in range(min(self.concurrency, len(images))):
            threading.Thread(target=work, name="xpsr-describe", daemon=True).start()
        priors: dict[int, Prior] = {}
        try:
            while len(priors) < len(images):
                index, result = done.get()
                if isinstance(result, BaseException):
                    raise result
                priors[index] = result
                if progress:
                    progress(1)
        finally:
            given_up.set()
        return [priors[index] for index in range(len(images))]

    def _describe(self, image: "ImageLike", name: str, given_up: threading.Event) -> Prior:
        from xpsr.image import to_picture

        picture = to_picture(image)
        try:
            return Prior(
                self._ask(picture, "content", name, given_up),
                self._ask(picture, "quality", name, given_up),
            )
        except _Unwelcome as error:
            raise InputError(f"{name}: {error}") from None

    def _ask(self, picture: "Picture", aspect: Aspect, name: str, given_up: threading.Event) -> str:
        questions = self.questions
        content = aspect == "content"
        question = questions.content if content else questions.quality
        if not question:
            return ""
        view = view_picture(picture, questions.content_view if content else questions.quality_view)
        # what is wrong with a picture must not be overlaid by the traces of another compression
        address = _data_url(view, lossless=not content or view.width * view.height <= _PNG_PIXELS)
        request = {
            "model": self._model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": address}},
                        {"type": "text", "text": question},
                    ],
                }
            ],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "stream": False,
        }
        text = self._usable(self._complete(request, given_up))
        if not text:
            answer = self._complete({**request, **_SECOND_TRY}, given_up)
            text = self._usable(answer)
            if not text:
                report_no_text(name, aspect, self._without_key(answer))
        return text

    def _usable(self, answer: str) -> str:
        # masked before, because an end that is cut off may lie in the key; and after, because characters that no one
        # sees may have hidden it
        return self._without_key(usable_text(self._without_key(answer)))

    def _complete(self, request: dict[str, Any], given_up: threading.Event) -> str:
        """The model's answer, after as many attempts as it takes."""
        body = json.dumps(request).encode()
        for attempt in range(self.retries + 1):
            try:
                return self._attempt(body)
            except _Hiccup as error:
                hiccup = error
            longest = _FIRST_WAIT * 2**attempt
            wait = self._random.uniform(longest / 2, longest) if hiccup.wait is None else hiccup.wait
            # without a further attempt there is nothing to wait for
            if attempt < self.retries and given_up.wait(min(max(wait, 0), _LONGEST_WAIT)):
                break
        times = "once" if self.retries == 0 else f"{self.retries + 1} times"
        raise ModelError(f"{self._shown}: {hiccup.reason}, tried {times}; {hiccup.remedy}.")

    def _attempt(self, body: bytes) -> str:
        """One request.

        Raises:
            _Hiccup: it may go better next time.
            _Unwelcome: it will not, but with another picture it may.
            ModelError: it will with none.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "xpsr"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._endpoint, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                data = _read(response, time.monotonic() + self.timeout)
        except HTTPError as error:
            with error:
                raise self._refusal(error) from None  # whose words may hold the key
        except (OSError, HTTPException) as error:  # time-outs and closed connections too
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, TimeoutError):
                raise _Hiccup(f"no answer in {self.timeout:g} seconds", "give it a longer timeout") from None
            said = self._printable(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__)
            raise _Hiccup(f"cannot be reached ({said})", "start the server or check the address") from None
        try:
            return _content(data)
        except (ValueError, LookupError, TypeError, RecursionError):
            said = self._printable(data.decode("utf-8", "replace"))
            what = f"answers no chat completion but {said!r}" if said else "gives an empty response"
            raise _Hiccup(what, "check the address, which for most servers ends in /v1") from None

    def _refusal(self, error: HTTPError) -> "ModelError | _Hiccup | _Unwelcome":
        """What becomes of a response that is not of success."""
        try:
            said = _read(error, time.monotonic() + self.timeout).decode("utf-8", "replace")
            said = self._printable(_message(self._without_key(said)))
        except (OSError, HTTPException):
            said = ""
        answer = f"{error.code} {self._printable(str(error.reason))}" + (f": {said}" if said else "")
        if error.code in (408, 429) or error.code >= 500:
            wait = _retry_after(error.headers)
            return _Hiccup(f"answers {answer}", "wait, lower the concurrency, or look into the server's log", wait)
        if 300 <= error.code < 400:
            target = self._printable(error.headers.get("Location", "another address"))
            return ModelError(f"{self._shown}: redirects to {target}; redirects are not followed: give that address.")
        if error.code in (401, 403):
            return ModelError(f"{self._shown}: answers {answer}; set {self._api_key_variable} to a valid API key.")
        check = f"check the address and the model {self._model!r}"
        if error.code in (400, 413, 415, 422):  # too large, too small, against the rules: another picture may do
            return _Unwelcome(f"{self._shown} answers {answer}; leave the picture out, or {check}.")
        return ModelError(f"{self._shown}: answers {answer}; {check}.")

    def _key(self) -> str:
        """The API key, empty where there is none.

        Raises:
            InputError: it cannot be sent.
        """
        variable = self._api_key_variable
        if variable not in os.environ and self._is_private:
            variable = "OPENAI_API_KEY"
        key = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):  # an error of the HTTP library would show it
            raise InputError(f"{variable} holds spaces or other characters that no API key has; set it again.")
        return key

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "***") if key else text

    def _printable(self, text: str) -> str:
        """What the server said, in one short line without control characters or our key."""
        text = "".join(c if c.isprintable() else " " for c in self._without_key(text))
        text = " ".join(text.split())
        return text if len(text) <= 200 else f"{text[:200]} ..."


class _Hiccup(Exception):
    """A request that failed and may go better next time, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, remedy: str, wait: float | None = None):
        super().__init__(reason)
        self.reason, self.remedy, self.wait = reason, remedy, wait


class _Unwelcome(Exception):
    """A request that the server refuses for what is in it."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an `HTTPError`; upstream would send the API key along to wherever it points."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _endpoint(url: str) -> tuple[str, str, str]:
    """Where requests go, how messages call it, and its host.

    Raises:
        InputError: it is no address of a server, or holds a password.
    """
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname
        _ = parts.port  # checked when it is read
    except ValueError as error:
        raise InputError(
            f"the server's address cannot be read ({error}); use one like http://localhost:11434/v1."
        ) from error
    if parts.username is not None or parts.password is not None:
        raise InputError(f"the address of {host} holds a user name or password; put an API key into XPSR_API_KEY.")
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[!-~]+", url.strip()):
        raise InputError(f"{url!r} is no address of a server; use one like http://localhost:11434/v1.")
    base = parts.path.rstrip("/").removesuffix("/chat/completions")
    # a query may hold what is nobody's business
    shown = parts._replace(path=base, query="", fragment="").geturl()
    return parts._replace(path=f"{base}/chat/completions", fragment="").geturl(), shown, host


def _data_url(view: "Image.Image", *, lossless: bool) -> str:
    file = io.BytesIO()
    if lossless:
        view.save(file, "PNG")
    else:
        view.save(file, "JPEG", quality=92, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _read(response: HTTPResponse | HTTPError, deadline: float) -> bytes:
    """The body, unless it goes on for too long: the socket's own time-out starts again with every byte."""
    data = b""
    while chunk := response.read1(2**16):
        data += chunk
        if len(data) > _MOST_BYTES:
            raise HTTPException(f"it sends more than {_MOST_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return data


def _content(data: bytes) -> str:
    """The answer in a chat completion; what is none raises one of many errors."""
    content = json.loads(data)["choices"][0]["message"]["content"]
    if isinstance(content, list):  # in parts
        return "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("no text")
    return content or ""


def _message(text: str) -> str:
    """What an error's body says, in one of the shapes that are in use."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text[:4096], flags=re.DOTALL | re.IGNORECASE)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)


def _retry_after(headers: Message) -> float | None:
    """Seconds that the server asks to wait, given as such or as a date."""
    value = headers.get("Retry-After", "")
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
