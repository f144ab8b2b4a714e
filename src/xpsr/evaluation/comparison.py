"""A page for a blind comparison: pairs of results in random order, and nothing in it that says whose they are."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from xpsr.config import SIZE_SUFFIX
from xpsr.errors import InputError
from xpsr.evaluation.pages import build_page, cut, data_uri, middle
from xpsr.files import by_stem, list_images, read_bytes, refusal, write_text
from xpsr.image import read_image, to_pil

__all__ = ["KEY_NAME", "MAX_BYTES", "PAGE_NAME", "write_comparison"]

PAGE_NAME, KEY_NAME = "index.html", "key.json"

MAX_BYTES = 128 * 2**20
"""Of all pictures in a page."""

_Pictures = dict[str, Path]


def write_comparison(
    methods: Mapping[str, Path],
    folder: Path,
    *,
    lr: Path | None = None,
    ref: Path | None = None,
    seed: int = 0,
    max_pictures: int = 24,
) -> None:
    """Writes `folder/index.html`, on which people vote, and `folder/key.json`, which says what they saw.

    The page holds the pictures without names and metadata, under tokens that nobody can compute who does not have the
    files. Every voter sees all pairs of methods of every picture, in an order and on sides of their own. Pictures
    belong together by their names, with or without a size at the end (`NAME_x4`).

    Args:
        methods: folders of results by the name of their method, two or more.
        folder: made if it is not there.
        lr: what the results were made from, shown beside them; None: nothing is shown.
        ref: the originals, shown beside them; the question becomes which result is closer.
        seed: which pictures are drawn where there are more than `max_pictures`, and which tokens. With the same files
            and seed, the same page is written.
        max_pictures: of a page.

    Raises:
        InputError: there are fewer than two methods; a folder has no pictures, lacks one, has one too many or several
            of one name; results of one picture differ in size, or from the original; a picture cannot be read; the
            pictures are more than `MAX_BYTES`; or in `folder` is a page with another key, whose votes it would orphan.
    """
    if len(methods) < 2:
        message = f"{', '.join(methods) or 'nothing'}: is one method" if methods else "no methods are given"
        raise InputError(message, code="too_few", remedy="name two folders or more, of the same pictures")
    if max_pictures < 1:
        message, remedy = "is not 1 or more", "24, for example"
        raise InputError(message, code="out_of_range", field="max_pictures", value=str(max_pictures), remedy=remedy)
    folders = [*methods.values()]
    found = _pair([*folders, *(path for path in (lr, ref) if path is not None)], given=lr or ref)
    digest = _digest(found, [seed, max_pictures, lr is not None, *methods])
    random_ = random.Random(digest)  # of the files: no voter can draw the tokens again
    names = random_.sample(sorted(found), min(max_pictures, len(found)))
    method_tokens, picture_tokens = _tokens(random_, methods), _tokens(random_, names)
    key = digest[:16]
    _refuse_other_key(folder / KEY_NAME, key)
    shown: list[dict[str, Any]] = []
    total = 0
    for name in names:
        results = {method_tokens[method]: found[name][at] for method, at in methods.items()}
        shown.append({"token": picture_tokens[name], **_picture(results, found[name], lr=lr, ref=ref)})
        total += sum(map(len, _addresses(shown[-1])))
        if total > MAX_BYTES:
            message = f"is too many: these pictures take more than {MAX_BYTES >> 20} MiB in a page"
            fewer = max(len(shown) - 1, 1)
            raise InputError(
                message, code="too_large", field="max_pictures", value=str(len(names)), remedy=f"use {fewer}"
            )
    data = {"key": key, "pictures": shown, "hasInput": lr is not None, "hasOriginal": ref is not None}
    page = build_page(
        "compare.html",
        title="Blind comparison",
        styles=("base.css", "compare.css"),
        scripts=("base.js", "compare.js"),
        data=data,
    )
    answers = {
        "kind": "xpsr key",
        "version": 1,
        "key": key,
        "seed": seed,
        "methods": {token: name for name, token in method_tokens.items()},
        "pictures": {token: name for name, token in picture_tokens.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(folder, "cannot be made", error) from error
    write_text(folder / KEY_NAME, json.dumps(answers, indent=1) + "\n")
    write_text(folder / PAGE_NAME, page)


def _refuse_other_key(path: Path, key: str) -> None:
    if not path.exists():
        return
    try:
        known = json.loads(read_bytes(path, limit=2**24))["key"]
    except (ValueError, KeyError, TypeError):
        known = None
    if known != key:
        message = f"{path}: belongs to another comparison, whose votes it explains"
        raise InputError(message, code="exists", remedy="choose a new folder")


def _tokens(random_: random.Random, names: Iterable[str]) -> dict[str, str]:
    return {name: f"{random_.getrandbits(40):010x}" for name in names}


def _digest(found: Mapping[str, Mapping[Path, Path]], options: Sequence[object]) -> str:
    whole = hashlib.sha256(json.dumps(options).encode())
    for name in sorted(found):
        whole.update(json.dumps(name).encode())
        for path in found[name].values():
            whole.update(hashlib.sha256(read_bytes(path)).digest())
    return whole.hexdigest()


def _addresses(picture: Mapping[str, Any]) -> list[str]:
    return [*picture["results"].values(), *(picture[side] for side in ("lr", "hr") if picture[side] is not None)]


def _picture(
    results: Mapping[str, Path], files: Mapping[Path, Path], *, lr: Path | None, ref: Path | None
) -> dict[str, Any]:
    """A picture as the page has it: results by their tokens, in the order of these, which says nothing."""
    images = {token: _opened(path) for token, path in sorted(results.items())}
    beside = {side: None if at is None else _opened(files[at]) for side, at in (("lr", lr), ("hr", ref))}
    named = {token: (path, images[token]) for token, path in results.items()}
    if ref is not None and (original := beside["hr"]) is not None:
        named = {"hr": (files[ref], original), **named}
    _refuse_other_sizes([*named.values()])
    width, height = next(iter(images.values())).size
    box = middle(width, height)
    scene = (width, height) if box is None else (box[2] - box[0], box[3] - box[1])

    def address(image: Image.Image) -> str:
        # lossless: what there is to see may be small
        return data_uri(image if box is None else cut(image, box, (width, height)), is_exact=True)

    note = None if box is None else f"The middle {scene[0]} × {scene[1]} of {width} × {height} pixels."
    addresses = {token: address(image) for token, image in images.items()}
    context = {side: None if image is None else address(image) for side, image in beside.items()}
    return {"width": scene[0], "height": scene[1], "results": addresses, **context, "note": note}


def _refuse_other_sizes(images: Sequence[tuple[Path, Image.Image]]) -> None:
    (first, image), *others = images
    for path, other in others:
        if other.size != image.size:
            (width, height), (usual, tall) = other.size, image.size
            message = f"{path}: has {width}x{height} pixels, and {first} {usual}x{tall}"
            raise InputError(message, code="wrong_size", remedy="compare pictures of one size")


def _opened(path: Path) -> Image.Image:
    return to_pil(read_image(path).pixels)


def _pair(folders: Sequence[Path], *, given: Path | None) -> dict[str, dict[Path, Path]]:
    """The files of every picture by their folders. `given`: the folder whose names are those of the pictures."""
    listed = {}
    for folder in folders:
        if not folder.is_dir():
            list_images(folder)  # where nothing is, it says so
            raise InputError(f"{folder}: is a file", code="wrong_type", remedy="name a folder of pictures")
        listed[folder] = list_images(folder)
    if len(listed) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise InputError(f"{twice}: is given twice", code="duplicate", remedy="name every folder once")
    stems = [set(by_stem(images)) for images in listed.values()]
    known = set(by_stem(listed[given])) if given is not None else set.intersection(*stems)
    named = {folder: _named(folder, images, known) for folder, images in listed.items()}
    whole = given or folders[0]
    for folder, images in named.items():
        for one, other, there in ((named[whole], images, folder), (images, named[whole], whole)):
            lacking = sorted(set(one) - set(other))
            if lacking:
                paths = ", ".join(str(one[name]) for name in lacking[:3]) + (" ..." if len(lacking) > 3 else "")
                message = f"{there}: has no partner of {len(lacking)} pictures ({paths})"
                message = message.replace("1 pictures", "1 picture") if len(lacking) == 1 else message
                remedy = "give both the same name, or take the one away"
                raise InputError(message, code="no_partner", remedy=remedy)
    return {name: {folder: named[folder][name] for folder in folders} for name in named[whole]}


def _named(folder: Path, images: Sequence[Path], known: set[str]) -> _Pictures:
    groups = defaultdict(list)
    for image in images:
        groups[image.stem if image.stem in known else SIZE_SUFFIX.sub("", image.stem)].append(image)
    for name, files in groups.items():
        if len(files) > 1:
            paths = " and ".join(map(str, files[:3]))
            raise InputError(f"{paths}: are both called {name}", code="ambiguous", remedy="keep one of them")
    return {name: files[0] for name, files in groups.items()}
