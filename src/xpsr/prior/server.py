"""Multimodal language models behind an OpenAI-compatible HTTP API: vLLM, Ollama, llama.cpp, hosted ones.

No redirect is followed, so neither picture nor key ever goes to another host than the one that was named.
"""

import asyncio
import base64
import io
import json
import logging
import os
import random
import re
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from anyio.from_thread import start_blocking_portal

from xpsr.config.checks import check_argument, within
from xpsr.errors import InputError, ModelError
from xpsr.prior.asking import SECOND_SEED, SECOND_TEMPERATURE, name_picture, report_no_text
from xpsr.prior.texts import QUESTIONS, Aspect, Prior, Questions, View, clean_answer
from xpsr.prior.views import view_picture

if TYPE_CHECKING:  # they load torch
    from xpsr.image import ImageLike, Picture

__all__ = ["ServerDescriber"]

_FIRST_WAIT = 0.5  # seconds before the second attempt; before each further one twice as long
_LONGEST_WAIT = 60.0
_MOST_BYTES = 2**22  # of an answer
_GIVE_ADDRESS = "use one like http://localhost:11434/v1"
_PNG_PIXELS = 512 * 512  # larger views for the content question go as JPEG
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # a few bytes might be unpacked to more than any memory
    "User-Agent": "xpsr",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_chance = random.SystemRandom()

# The libraries' logs tell addresses with their queries, and whatever a server repeats of the key
_is_asking: ContextVar[bool] = ContextVar("_is_asking", default=False)
for _library in ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_library).addFilter(lambda record: not _is_asking.get())


class ServerDescriber:
    """Asks a model behind `POST {url}/chat/completions`.

    The server sees what `questions` shows of every picture. The API key is read from the environment at each request
    and appears in no message.

    Args:
        url: base address, such as http://localhost:11434/v1.
        model: what the server calls the model.
        questions: what is asked, and what is shown; an empty question is not asked and its text stays empty.
        concurrency: pictures that are asked about at a time.
        timeout: seconds that a request may take, from its first byte to the last one of the answer.
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
        self._endpoint, self._shown, host = _endpoint(url)
        if not model:
            remedy = "name it behind #, as in http://localhost:11434/v1#qwen2.5vl"
            raise InputError(f"{self._shown}: lacks the model", code="no_model", remedy=remedy)
        self.name = f"{self._shown}#{model}"
        self.revision: str | None = None
        self.questions: Questions = questions
        self.concurrency = check_argument("concurrency", concurrency, int, within(1, 1000, "4"))
        self.retries = check_argument("retries", retries, int, within(0, 100, "3"))
        self.max_tokens = check_argument("max_tokens", max_tokens, int, within(1, 10**6, "200"))
        self.timeout = check_argument("timeout", timeout, float, within(0, 86_400, "60 seconds", open_at="low"))
        self._model = model
        self._api_key_variable = api_key_variable
        self._is_here = host in _LOOPBACK
        self._is_private = self._is_here or self._endpoint.startswith("https:")

    def __repr__(self) -> str:
        return f"ServerDescriber({self.name!r})"

    def describe(self, images: Sequence["ImageLike"], *, progress: Callable[[int], None] | None = None) -> list[Prior]:
        """Returns one prior for each of `images`, in their order. An answer that cannot be used is asked for once more;
        then the text stays empty and a warning names the picture.

        When a picture cannot be read or the server fails for good, the others are given up too: call this with a few
        pictures at a time, and keep what it returns.

        Args:
            images: whatever `to_picture` takes.
            progress: is told how many pictures were finished since it was last called.

        Raises:
            InputError: a picture cannot be used, or the server refuses this one (400, 413, 415, 422).
            ModelError: the server cannot be reached, refuses, or answers with something else than a chat completion.
        """
        return _run(self._describe_all, images, progress)

    async def _describe_all(self, images: Sequence["ImageLike"], progress: Callable[[int], None] | None) -> list[Prior]:
        _is_asking.set(True)
        priors = [Prior()] * len(images)
        places = iter(range(len(images)))

        async def work(client: httpx.AsyncClient) -> None:
            for place in places:  # of all workers: each takes the next
                priors[place] = await self._describe(client, images[place], name_picture(images[place], place))
                if progress:
                    progress(1)

        try:
            async with self._open_client() as client, asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(images))):
                    group.create_task(work(client))
        except ExceptionGroup as errors:
            failed = errors.exceptions[0]
        else:
            return priors
        raise failed

    def _open_client(self) -> httpx.AsyncClient:
        # a proxy has nothing to do with a server on this machine, whatever the environment says
        try:
            return httpx.AsyncClient(
                timeout=None, trust_env=not self._is_here, verify=ssl.create_default_context(), headers=_HEADERS
            )
        except (ImportError, ValueError, httpx.InvalidURL):
            remedy = "correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or for SOCKS run: pip install 'httpx[socks]'"
            # without its cause, which may tell a password
            raise InputError(
                "the environment names a proxy that cannot be used", code="bad_address", remedy=remedy
            ) from None

    async def _describe(self, client: httpx.AsyncClient, image: "ImageLike", name: str) -> Prior:
        from xpsr.image import to_picture

        picture = await asyncio.to_thread(to_picture, image)
        content = await self._ask(client, picture, "content", name)
        return Prior(content, await self._ask(client, picture, "quality", name))

    async def _ask(self, client: httpx.AsyncClient, picture: "Picture", aspect: Aspect, name: str) -> str:
        question, view = self.questions.about(aspect)
        if not question:
            return ""
        address = {"url": await asyncio.to_thread(_data_url, picture, view, aspect)}
        parts = [{"type": "image_url", "image_url": address}, {"type": "text", "text": question}]
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "stream": False,
        }
        text = self._usable(await self._complete(client, request, name))
        if not text:
            again = {**request, "temperature": SECOND_TEMPERATURE, "seed": SECOND_SEED}
            answer = await self._complete(client, again, name)
            text = self._usable(answer)
            if not text:
                report_no_text(name, aspect, self._without_key(answer))
        return text

    def _usable(self, answer: str) -> str:
        # masked before, because an end that is cut off may lie in the key; and after, because characters that no one
        # sees may have hidden it
        return self._without_key(clean_answer(self._without_key(answer)))

    async def _complete(self, client: httpx.AsyncClient, request: dict[str, Any], name: str) -> str:
        """Returns the model's answer, after as many attempts as it takes."""
        body = json.dumps(request).encode()
        for attempt in range(self.retries + 1):
            try:
                return await self._attempt(client, body, name)
            except _Hiccup as error:
                hiccup = error
            if attempt < self.retries:  # without a further attempt there is nothing to wait for
                await asyncio.sleep(_seconds_to_wait(attempt, hiccup.wait))
        times = "once" if self.retries == 0 else f"{self.retries + 1} times"
        message = f"{self._shown}: {hiccup.reason}, tried {times}"
        raise ModelError(message, code="unreachable", remedy=hiccup.remedy)

    async def _attempt(self, client: httpx.AsyncClient, body: bytes, name: str) -> str:
        """Makes one request.

        Raises:
            _Hiccup: it may go better next time.
            InputError: it will not, but with another picture it may.
            ModelError: it will with none.
        """
        key, data = self._key(), b""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            async with (
                asyncio.timeout(self.timeout),
                client.stream("POST", self._endpoint, content=body, headers=headers) as response,
            ):
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > _MOST_BYTES:
                        break
        except TimeoutError:
            raise _Hiccup(f"no answer in {self.timeout:g} seconds", "give it a longer timeout") from None
        except httpx.HTTPError as error:
            said = self._printable(str(error).rstrip(".") or type(error).__name__)
            raise _Hiccup(f"cannot be reached ({said})", "start the server or check the address") from None
        if not response.is_success:
            raise self._refusal(response, data, name)
        if len(data) > _MOST_BYTES:
            raise _Hiccup(f"sends more than {_MOST_BYTES} bytes", "check the address")
        try:
            return _content(data)
        except (ValueError, LookupError, TypeError, RecursionError):
            said = self._printable(data.decode("utf-8", "replace"))
            what = f"answers no chat completion but {said!r}" if said else "gives an empty response"
            raise _Hiccup(what, "check the address, which for most servers ends in /v1") from None

    def _refusal(self, response: httpx.Response, data: bytes, name: str) -> Exception:
        """Returns what to raise for a response that is not of success."""
        code = response.status_code
        said = self._printable(_message(self._without_key(data.decode("utf-8", "replace"))))
        answer = f"{code} {self._printable(response.reason_phrase)}" + (f": {said}" if said else "")
        if code in (408, 429) or code >= 500:
            wait = _retry_after(response.headers.get("Retry-After", ""))
            return _Hiccup(f"answers {answer}", "wait, lower the concurrency, or look into the server's log", wait)
        if 300 <= code < 400:
            target = self._printable(response.headers.get("Location", "another address"))
            message, remedy = f"{self._shown}: redirects to {target}", "redirects are not followed: give that address"
            return ModelError(message, code="refused", remedy=remedy)
        if code in (401, 403):
            message, remedy = f"{self._shown}: answers {answer}", f"set {self._api_key_variable} to a valid API key"
            return ModelError(message, code="refused", remedy=remedy)
        remedy = f"check the address and the model {self._model!r}"
        if code in (400, 413, 415, 422):  # too large, too small, against the rules: another picture may do
            message = f"{name}: {self._shown} answers {answer}"
            return InputError(message, code="refused", remedy=f"leave the picture out, or {remedy}")
        kind = "not_found" if code == 404 else "refused"
        return ModelError(f"{self._shown}: answers {answer}", code=kind, remedy=remedy)

    def _key(self) -> str:
        """Returns the API key, empty where there is none.

        Raises:
            InputError: it cannot be sent.
        """
        variable = self._api_key_variable
        if variable not in os.environ and self._is_private:
            variable = "OPENAI_API_KEY"
        key = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):  # an error of the HTTP library would show it
            message = f"{variable} holds spaces or other characters that no API key has"
            raise InputError(message, code="bad_key", remedy="set it again")
        return key

    def _without_key(self, text: str) -> str:
        key = self._key()
        return text.replace(key, "***") if key else text

    def _printable(self, text: str) -> str:
        """Returns what the server said, in one short line without control characters or our key."""
        text = "".join(c if c.isprintable() else " " for c in self._without_key(text))
        text = " ".join(text.split())
        return text if len(text) <= 200 else f"{text[:200]} ..."


class _Hiccup(Exception):
    """A request that failed and may go better next time, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, remedy: str, wait: float | None = None):
        super().__init__(reason)
        self.reason, self.remedy, self.wait = reason, remedy, wait


def _run(describe: Callable[..., Coroutine[Any, Any, list[Prior]]], *arguments: Any) -> list[Prior]:
    """Runs a coroutine to its end, where an event loop runs in this thread already (a notebook's) in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(describe(*arguments))
    with start_blocking_portal() as portal:
        return portal.call(describe, *arguments)


def _seconds_to_wait(attempt: int, asked: float | None) -> float:
    """Returns the pause after attempt number `attempt`, from 0: what the server asked for, or else longer each time.

    There is chance in it, so that many clients do not come back at the same moment.
    """
    longest = _FIRST_WAIT * 2**attempt
    wait = _chance.uniform(longest / 2, longest) if asked is None else asked
    return min(max(wait, 0), _LONGEST_WAIT)


def _endpoint(url: str) -> tuple[str, str, str]:
    """Returns where requests go, how messages call it, and its host.

    Raises:
        InputError: it is no address of a server, or holds a password.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
        _ = httpx.URL(url.strip()).host  # is stricter, and reads international names
    except (ValueError, httpx.InvalidURL) as error:
        message = f"the server's address cannot be read ({error})"
        raise InputError(message, code="bad_address", remedy=_GIVE_ADDRESS) from error
    if parts.username is not None or parts.password is not None:
        message = f"the address of {host} holds a user name or password"
        raise InputError(message, code="bad_address", remedy="put an API key into XPSR_API_KEY")
    if parts.scheme not in ("http", "https") or not host or not re.fullmatch(r"[!-~]+", url.strip()):
        raise InputError(f"{url!r} is no address of a server", code="bad_address", remedy=_GIVE_ADDRESS)
    base = parts.path.rstrip("/").removesuffix("/chat/completions")
    # a query may hold what is nobody's business
    shown = parts._replace(path=base, query="", fragment="").geturl()
    return parts._replace(path=f"{base}/chat/completions", fragment="").geturl(), shown, host


def _data_url(picture: "Picture", kind: View, aspect: Aspect) -> str:
    view, file = view_picture(picture, kind), io.BytesIO()
    # what is wrong with a picture must not be overlaid by the traces of another compression
    if aspect == "quality" or view.width * view.height <= _PNG_PIXELS:
        view.save(file, "PNG")
        head = "data:image/png;base64,"
    else:
        view.save(file, "JPEG", quality=92, subsampling=0)
        head = "data:image/jpeg;base64,"
    return head + base64.b64encode(file.getvalue()).decode()


def _content(data: bytes) -> str:
    """Returns the answer in a chat completion; what is none raises one of many errors."""
    content = json.loads(data)["choices"][0]["message"]["content"]
    if isinstance(content, list):  # in parts
        return "".join(part["text"] for part in content if part["type"] == "text")
    if content is not None and not isinstance(content, str):
        raise TypeError("no text")
    return content or ""


def _message(text: str) -> str:
    """Returns what an error's body says, in one of the shapes that are in use."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text[:4096], flags=re.DOTALL | re.IGNORECASE)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)


def _retry_after(value: str) -> float | None:
    """Returns the seconds that a server asks to wait, given as such or as a date; None where it does not."""
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
