"""A page for a blind comparison: pairs of results in random order, and nothing in it that says whose they are."""

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from xpsr.errors import InputError
from xpsr.evaluation.pages import build_page, cut, data_uri, middle
from xpsr.evaluation.pairing import pair_methods
from xpsr.evaluation.results import Case
from xpsr.files import read_bytes, refusal, write_text
from xpsr.image import read_image, to_pil

__all__ = ["KEY_NAME", "MAX_BYTES", "PAGE_NAME", "write_comparison"]

PAGE_NAME, KEY_NAME = "index.html", "key.json"

MAX_BYTES = 128 * 2**20
"""Of all pictures in a page."""


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
            pictures are more than `MAX_BYTES`; or in `folder` is a page with another key, whose votes it would orphan,
            or with none.
    """
    if len(methods) < 2:
        message = f"{', '.join(methods) or 'nothing'}: is one method" if methods else "no methods are given"
        raise InputError(message, code="too_few", remedy="name two folders or more, of the same pictures")
    if max_pictures < 1:
        message, remedy = "is not 1 or more", "24, for example"
        raise InputError(message, code="out_of_range", field="max_pictures", value=str(max_pictures), remedy=remedy)
    _refuse_twice([*methods.values(), *(path for path in (lr, ref) if path is not None)])
    paired = pair_methods(methods, hr=ref, lr=lr)
    found = {cases[0].name: dict(zip(methods, cases, strict=True)) for cases in zip(*paired.values(), strict=True)}
    digest = _digest(found, [seed, max_pictures, lr is not None, *methods])
    random_ = random.Random(digest)  # of the files: no voter can draw the tokens again
    names = random_.sample(sorted(found), min(max_pictures, len(found)))
    method_tokens, picture_tokens = _tokens(random_, methods), _tokens(random_, names)
    key = digest[:16]
    _refuse_other_page(folder, key)
    shown: list[dict[str, Any]] = []
    total = 0
    for name in names:
        cases = {method_tokens[method]: case for method, case in found[name].items()}
        shown.append({"token": picture_tokens[name], **_picture(cases)})
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


def _refuse_twice(folders: Sequence[Path]) -> None:
    known: set[str] = set()
    for folder in folders:
        place = os.path.realpath(folder)
        if place in known:
            raise InputError(f"{folder}: is given twice", code="duplicate", remedy="name every folder once")
        known.add(place)


def _refuse_other_page(folder: Path, key: str) -> None:
    path, page = folder / KEY_NAME, folder / PAGE_NAME
    if path.exists():
        try:
            known = json.loads(read_bytes(path, limit=2**24))["key"]
        except (ValueError, KeyError, TypeError):
            known = None
        message = f"{path}: belongs to another comparison, whose votes it explains" if known != key else None
    else:
        message = f"{page}: is there already, without the {KEY_NAME} of a page" if page.exists() else None
    if message is not None:
        raise InputError(message, code="exists", remedy="choose a new folder")


def _tokens(random_: random.Random, names: Iterable[str]) -> dict[str, str]:
    return {name: f"{random_.getrandbits(40):010x}" for name in names}


def _digest(found: Mapping[str, Mapping[str, Case]], options: Sequence[object]) -> str:
    whole = hashlib.sha256(json.dumps(options).encode())
    for name in sorted(found):
        whole.update(json.dumps(name).encode())
        for path in _files(found[name].values()):
            whole.update(hashlib.sha256(read_bytes(path)).digest())
    return whole.hexdigest()


def _files(cases: Iterable[Case]) -> list[Path]:
    """Results, then the input and the original, where they are shown."""
    results = list(cases)
    return [*(case.restored for case in results), *filter(None, (results[0].lr, results[0].hr))]


def _addresses(picture: Mapping[str, Any]) -> list[str]:
    return [*picture["results"].values(), *(picture[side] for side in ("lr", "hr") if picture[side] is not None)]


def _picture(cases: Mapping[str, Case]) -> dict[str, Any]:
    """A picture as the page has it: results by their tokens, in the order of these, which says nothing."""
    first = next(iter(cases.values()))
    images = {token: _opened(case.restored) for token, case in sorted(cases.items())}
    beside = {side: None if path is None else _opened(path) for side, path in (("lr", first.lr), ("hr", first.hr))}
    named = [(case.restored, images[token]) for token, case in cases.items()]
    if first.hr is not None and (original := beside["hr"]) is not None:
        named.insert(0, (first.hr, original))
    _refuse_other_sizes(named)
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
