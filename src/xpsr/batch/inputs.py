"""From what a user names to a plan: all pictures there, each with what its result depends on and where that goes."""

import hashlib
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from xpsr.batch.finding import Search
from xpsr.batch.items import Item
from xpsr.batch.lists import Found
from xpsr.batch.naming import Keys, Naming, record_key
from xpsr.batch.stores import plain, shown
from xpsr.errors import InputError
from xpsr.files import refusal
from xpsr.sources import ResultFormat

__all__ = ["plan_items"]

_SPOOLED = 5_000
"""Pictures that are written or read at once."""


def plan_items(
    inputs: Sequence[str],
    *,
    out: str,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    name: str = "{stem}",
    format: ResultFormat = "same",  # noqa: A002 - what it is
    size: str = "",
    seed: int | None = None,
    content: str | None = None,
    quality: str | None = None,
    part: tuple[int, int] = (1, 1),
    on_error: Callable[[str, InputError], None],
    on_note: Callable[[str], None],
    on_unread: Callable[[str], None] = lambda name: None,
) -> Iterator[Item]:
    """Yields the pictures of a plan, in the order of the inputs, those of a folder by id.

    A picture's id is its path below the folder or address that was named, with /; that of a tar file begins with the
    tar file's name without .tar; that of a list is what the row says, or else its source without root and dots. No two
    may have the same. The seed is the one that is given, or else the row's, or else the first 32 bits of the id's
    SHA-256, so that it never depends on order or company. The result goes to the folder of its id, under a name that
    depends on no other pictures but those of its folder with the same name but for the suffix, whether or not
    `include`, `exclude` and `part` leave those out.

    `include` and `exclude` are patterns of whole ids: * and ? stand for anything but /, [ab] and [!ab] for one letter
    that is or is not among these, **/ for any folders or none, ** for anything; upper case counts. One without / fits
    in any folder, so *.jpg is every such file, /*.jpg those in no folder, and trip/** or trip/ all that is below trip.

    All is found before the first picture is yielded; it lies in a temporary file meanwhile, some 200 bytes a picture.

    Args:
        inputs: folders, with all that is below; pictures; lists (`read_list` tells of them); tar files, not compressed;
            and addresses of pictures, lists, and what is below them, as fsspec takes them. Each counts once.
        out: the folder of all results, or its address; what is in it is no input.
        include: patterns of ids, of which one must fit; none: all do.
        exclude: patterns of ids, of which none may fit.
        name: of results, as `Naming` takes it.
        format: of results, as `Naming` takes it.
        size: what {size} in `name` stands for; "": nothing was asked for.
        seed: of all pictures; None: each has its own.
        content: what is in all pictures; None: what their rows say, if they have any.
        quality: what is wrong with all pictures; None: what their rows say, if they have any.
        part: (i, n) for the i-th of n shares, from 1: pictures whose ids' SHA-256 modulo n is i - 1.
        on_error: is told what cannot be used, by its name, and why: an input, a line, a picture.
        on_note: is told in a line what of an input is passed over.
        on_unread: is told, of what `on_error` is told, the names of folders, tar files and lists that were not read to
            their ends, so that nobody knows what is in them.

    Raises:
        InputError: an option that cannot be used; an input is `out`; two pictures have one id; no picture fits
            `include` and `exclude`.
        MissingDependencyError: an address or a .parquet needs a package that is not installed.
        XPSRError: a store cannot be reached.
    """
    naming = Naming(name=name, format=format, size=size)
    fits = _filter(include, exclude)
    if "" in inputs:
        message, remedy = "an empty name is no input", "is a variable of the shell empty?"
        raise InputError(message, code="not_found", remedy=remedy)
    search = Search(out=plain(out), on_error=on_error, on_note=on_note, on_unread=on_unread)
    inputs = list(dict.fromkeys(map(plain, inputs)))
    for one in inputs:
        if search.is_out(one):
            message = f"{one}: results would be among the pictures they are made of"
            raise InputError(message, code="conflict", remedy="choose another folder with -o")

    def items() -> Iterator[Item]:
        for found, target in _placed(search, inputs, naming, fits):
            digest = hashlib.sha256(found.id.encode()).digest()
            if int.from_bytes(digest, "big") % part[1] != part[0] - 1:
                continue
            own = found.seed if seed is None else seed
            yield Item(
                id=found.id,
                source=found.source,
                target=target,
                seed=int.from_bytes(digest[:4], "big") if own is None else own,
                content=found.content if content is None else content,
                quality=found.quality if quality is None else quality,
                stamp=found.stamp,
            )

    return items()


# Which of them, and where their results go


def _filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    takes, leaves = _pattern("include", include), _pattern("exclude", exclude)
    return lambda called: not (takes and not takes.fullmatch(called)) and not (leaves and leaves.fullmatch(called))


def _pattern(option: str, globs: Sequence[str]) -> re.Pattern[str] | None:
    """Returns what fits where one of the patterns of `plan_items` does; None: there are none."""
    if "" in globs:
        message, remedy = "is an empty pattern", "use *.jpg, for example"
        raise InputError(message, code="bad_name", field=option, value="", remedy=remedy)
    try:
        return re.compile("|".join(map(_expression, globs)), re.DOTALL) if globs else None
    except re.error as error:  # a range of letters from high to low
        message, remedy = f"is no pattern ({error})", "use [a-z], for example"
        raise InputError(message, code="bad_name", field=option, value=" ".join(globs), remedy=remedy) from error


_TOKEN = r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]|."
"""What a pattern is made of: three kinds of stars, a letter, one of several letters, itself."""


def _expression(glob: str) -> str:
    parts = []
    whole = glob.removeprefix("/") if "/" in glob else f"**/{glob}"
    whole += "**" if whole.endswith("/") else ""
    for token in re.findall(_TOKEN, whole, re.DOTALL):
        if len(token) > 2 and token.startswith("["):
            negated, letters = token[1] == "!", token[1:-1].removeprefix("!")
            letters = re.sub(r"([\\\[\]^&~|])", r"\\\1", letters)
            parts.append(f"(?!/)[{'^' * negated}{letters}]")
        else:
            known = {"**/": "(?:[^/]*/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
            parts.append(known.get(token) or re.escape(token))
    return "".join(parts)


def _placed(
    search: Search, inputs: Sequence[str], naming: Naming, fits: Callable[[str], bool]
) -> Iterator[tuple[Found, str]]:
    """Yields pictures and where their results go, but for those whose place is another's."""
    # Whether a name is taken shows when all are known, and a million of them take less room in a file, read thrice,
    # than in memory, where eight bytes of each are enough to know which few are to be looked at.
    stems, ids, sources, records, places = Keys(), Keys(), Keys(), Keys(), Keys()
    with _Spool() as spool:
        for found in search.all(inputs):
            target, stem = (found.target, "") if found.target else naming.of(found.id, found.source)
            spool.add(found, target, stem)
            if stem:  # of what is left out, too: a share's names are those of the whole
                stems.add(stem)
        alike = _of_several(spool, stems.repeated())

        def chosen() -> Iterator[tuple[Found, str]]:
            for found, target, stem in spool:
                if fits(found.id):
                    yield found, naming.among_several(found.id, found.source) if stem in alike else target

        for found, target in chosen():
            ids.add(found.id)
            records.add(record_key(target))
            places.add(search.place_of(target))
            for place in search.places(found):
                sources.add(place)
        if spool.count and not ids.count:
            message, remedy = "no picture fits include and exclude", "upper case counts, and a folder is trip/"
            raise InputError(message, code="no_pictures", remedy=remedy)
        twice, clashing, replacing = ids.repeated(), records.repeated(), places.common(sources)
        if twice:
            _refuse_namesakes((found for found, _ in chosen()), twice)
        replaced = {place for found, _ in chosen() for place in search.places(found)} if replacing else set()
        seen: set[str] = set()
        taken: dict[str, tuple[Found, str]] = {}
        for found, target in chosen():
            if twice and hash(found.id) in twice:
                if found.id in seen:
                    continue
                seen.add(found.id)
            if replacing and search.place_of(target) in replaced:
                what = f"the input {search.out}/{target}"
                search.on_error(shown(found.source), _clash(found, what, "choose another place with -o"))
                continue
            if clashing and hash(key := record_key(target)) in clashing:
                other, others = taken.setdefault(key, (found, target))
                if other is not found:
                    what = f"{others}, or its record, that of {shown(other.source)}"
                    remedy = "rename one of them, or give it a target in a list"
                    search.on_error(shown(found.source), _clash(found, what, remedy))
                    continue
            yield found, target


def _of_several(spool: "_Spool", repeated: set[int]) -> set[str]:
    """Returns the stems that pictures of several ids have, of those whose hashes were found more than once."""
    first: dict[str, str] = {}
    several: set[str] = set()
    for found, _, stem in spool if repeated else ():
        if stem and hash(stem) in repeated and first.setdefault(stem, found.id) != found.id:
            several.add(stem)
    return several


def _refuse_namesakes(chosen: Iterator[Found], twice: set[int]) -> None:
    """Raises `InputError` where two pictures have one id; what was named twice is one picture."""
    first: dict[str, Found] = {}
    for found in chosen:
        if hash(found.id) in twice and (other := first.setdefault(found.id, found)) != found:
            message = f"{shown(other.source)} and {shown(found.source)} are both called {found.id}"
            if other.source == found.source:
                message = f"{shown(found.source)}: is named twice as {found.id}, with other seeds, texts or targets"
            remedy = "give each an output of its own, or name them in a list with ids"
            raise InputError(message, code="conflict", remedy=remedy)


def _clash(found: Found, what: str, remedy: str) -> InputError:
    message = f"{shown(found.source)}: its result would replace {what}"
    return InputError(message, code="conflict", remedy=remedy)


class _Spool:
    """A temporary file of what was found, to be read again and again. A context manager, which removes it."""

    def __init__(self) -> None:
        self.count = 0
        self._chunk: list[tuple[tuple[Any, ...], str, str]] = []

    def __enter__(self) -> "_Spool":
        with self._speaking():
            self._file: IO[bytes] = tempfile.TemporaryFile()
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, found: Found, target: str, stem: str) -> None:
        self.count += 1
        self._chunk.append((tuple(found), target, stem))
        if len(self._chunk) == _SPOOLED:
            self._write()

    def __iter__(self) -> Iterator[tuple[Found, str, str]]:
        self._write()
        with self._speaking():
            self._file.seek(0)
            for _ in range(-(-self.count // _SPOOLED)):
                for values, target, stem in pickle.load(self._file):
                    yield Found._make(values), target, stem

    def _write(self) -> None:
        if self._chunk:
            with self._speaking():
                pickle.dump(self._chunk, self._file, protocol=pickle.HIGHEST_PROTOCOL)
            self._chunk = []

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise refusal(Path(tempfile.gettempdir()), "cannot be written", error) from error
