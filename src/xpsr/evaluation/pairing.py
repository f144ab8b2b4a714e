"""Which restored picture belongs to which original and input, and whether they can be compared, before any is."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xpsr.config import SIZE_SUFFIX
from xpsr.errors import InputError
from xpsr.evaluation.consistency import has_size_of_input
from xpsr.evaluation.results import Case
from xpsr.files import list_images, partner, refusal
from xpsr.image import Limits, read_image
from xpsr.image.opening import open_image, without_remarks
from xpsr.orientation import upright_size

__all__ = ["check_cases", "pair_methods"]

_MOST_NAMED = 3  # files in a message


def pair_methods(methods: Mapping[str, Path], *, hr: Path | None, lr: Path | None) -> dict[str, tuple[Case, ...]]:
    """Returns the pictures of each method with what they are compared with, under the same names in the same order.

    A picture belongs to the original that has its name, whatever both end with, or else its name and a size
    (`NAME_x4`, `NAME_3000x2000`). Inputs are found in the same way. Without originals, pictures belong to inputs, and
    without both to the pictures of the first method.

    Args:
        methods: the folder of each method's pictures, by its name.
        hr: the folder of the originals.
        lr: the folder of what was restored.

    Raises:
        InputError: there is no method; a folder holds no picture; or a picture is missing, belongs to nothing, or may
            belong to several.
    """
    if not methods:
        raise InputError("no restored pictures", code="no_pictures", remedy="name a folder of them")
    folders = {name: _pictures(folder) for name, folder in methods.items()}
    base = hr or lr or next(iter(methods.values()))
    originals = _by_name(_pictures(base) if hr or lr else folders[next(iter(methods))], sized=hr is None and lr is None)
    restored = {name: _partners(originals, base, methods[name], images) for name, images in folders.items()}
    inputs = None if lr is None else originals if hr is None else _partners(originals, base, lr, _pictures(lr))
    return {
        method: tuple(
            Case(
                name=name,
                restored=images[name],
                hr=original if hr is not None else None,
                lr=None if inputs is None else inputs[name],
            )
            for name, original in originals.items()
        )
        for method, images in restored.items()
    }


def _pictures(folder: Path) -> list[Path]:
    if folder.is_file():
        raise InputError(f"{folder}: is not a folder", code="wrong_type", remedy="name the folder that holds it")
    return list_images(folder)


def _by_name(images: Sequence[Path], *, sized: bool) -> dict[str, Path]:
    """Pictures by what all methods call them: without suffix and, where they are results themselves, without size."""
    found: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        found[SIZE_SUFFIX.sub("", image.stem) if sized else image.stem].append(image)
    for name, alike in found.items():
        if len(alike) > 1:
            message = f"{_some(alike)} have one name, {name}, and their partners cannot be told apart"
            raise InputError(message, code="ambiguous", remedy="rename all but one of them")
    return {name: found[name][0] for name in sorted(found)}


def _partners(originals: Mapping[str, Path], base: Path, folder: Path, images: Sequence[Path]) -> dict[str, Path]:
    """The picture in `folder` that belongs to each of the originals, which lie in `base`."""
    exact: dict[str, list[Path]] = defaultdict(list)
    sized: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        exact[image.stem].append(image)
        if end := SIZE_SUFFIX.search(image.stem):
            sized[image.stem[: end.start()]].append(image)
    found: dict[str, Path] = {}
    owners: dict[Path, list[Path]] = defaultdict(list)
    for name, original in originals.items():
        if candidates := exact.get(name) or sized.get(name):
            found[name] = partner(original, candidates, folder)
            owners[found[name]].append(original)
    for image, several in owners.items():
        partner(image, several, base)
    missing = [original for name, original in originals.items() if name not in found]
    surplus = [image for image in images if image not in owners]
    told = [f"has no picture for {_some(missing, base)}"] if missing else []
    told += [f"holds {_some(surplus, folder)}, for which there is none in {base}"] if surplus else []
    if told:
        remedy = "give both the same names, or take away what has no partner"
        raise InputError(f"{folder}: {' and '.join(told)}", code="no_partner", remedy=remedy)
    return found


def _some(paths: Sequence[Path | str], below: Path | None = None) -> str:
    """Names some files, and says how many more there are; the first one whole, and others too where `below` is None."""
    named = [str(path if below is None else Path(path).relative_to(below)) for path in paths[:_MOST_NAMED]]
    if below is not None and paths:
        named[0] = str(paths[0])
    return _listed(named, len(paths))


def _listed(named: Sequence[str], count: int) -> str:
    if count > len(named):
        return f"{', '.join(named)} and {count - len(named)} more"
    return " and ".join(filter(None, (", ".join(named[:-1]), *named[-1:])))


@dataclass(frozen=True)
class _Look:
    """What has to be known of a picture before it is compared: its size, upright, and what its file holds."""

    width: int
    height: int
    is_gray: bool
    has_alpha: bool

    @property
    def size(self) -> str:
        return f"{self.width} x {self.height}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass
class _Problems:
    """What is wrong, each kind by itself, so that a message can name the first files and count the others."""

    unusable: dict[Path, InputError] = field(default_factory=dict)
    clear: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    colors: list[str] = field(default_factory=list)

    def raise_first(self, *, has_hr: bool) -> None:
        if self.unusable:
            (_, error), *others = self.unusable.items()
            more = f" ({_some([path for path, _ in others])} cannot be used either)" if others else ""
            raise InputError(error.message + more, code=error.code, remedy=error.remedy) from error
        size = "not as large as the original" if has_hr else "not as large as the first method's picture"
        resized = "restore at that size" + (", or choose a protocol that resizes" if has_hr else "")
        kinds = (
            (self.clear, "transparent pixels have no colour to compare", "put them on a background", "transparent"),
            (self.sizes, size, resized, "wrong_size"),
            (self.inputs, "cannot be the input, by its size", "check the folder of inputs", "wrong_size"),
            (self.colors, "gray against colour", "store both in the same way", "wrong_type"),
        )
        for named, what, remedy, code in kinds:
            if named:
                raise InputError(f"{_listed(named[:_MOST_NAMED], len(named))}: {what}", code=code, remedy=remedy)


def check_cases(paired: Mapping[str, Sequence[Case]], *, resizes: bool) -> None:
    """Refuses pictures that cannot be compared, before an hour is spent on others.

    Of common files the header tells enough. Others are read whole: those with transparency, and those of floats, which
    may be NaN.

    Args:
        paired: the cases of each method, as `pair_methods` returns them.
        resizes: whether a restored picture of another size is resized to that of its original.

    Raises:
        InputError: pictures cannot be read, are transparent, are not as large as their originals, have inputs of other
            proportions, or are gray where their originals have colour or the reverse; the line names the first files.
    """
    problems, has_hr = _Problems(), False
    for cases in zip(*paired.values(), strict=True):
        looks: dict[Path, _Look] = {}
        for path in dict.fromkeys(path for case in cases for path in _files(case)):
            try:
                looks[path] = _look(path)
            except InputError as error:
                problems.unusable[path] = error
                continue
            if looks[path].has_alpha:
                problems.clear.append(str(path))
        for case in cases:
            if all(path in looks for path in (*_files(case), cases[0].restored)):
                _compare(case, cases[0].restored, looks, problems, resizes=resizes)
            has_hr = case.hr is not None
    problems.raise_first(has_hr=has_hr)


def _files(case: Case) -> Iterator[Path]:
    yield case.restored
    yield from (path for path in (case.hr, case.lr) if path is not None)


def _compare(case: Case, first: Path, looks: dict[Path, _Look], problems: _Problems, *, resizes: bool) -> None:
    """Notes what is wrong with a case; `first` is the picture of the first method."""
    if looks[case.restored].size != looks[case.hr or first].size:  # a PNG may say behind its pixels how it is turned
        looks.update({path: _look_whole(path) for path in (case.restored, case.hr or first)})
    restored, target = looks[case.restored], looks[case.hr or first]
    if restored.size != target.size and not (resizes and case.hr):
        problems.sizes.append(f"{case.restored} ({restored.size}, not {target.size})")
    if case.lr is not None and not has_size_of_input(looks[case.lr].shape, target.shape):
        problems.inputs.append(f"{case.lr} ({looks[case.lr].size}) of {target.size}")
    for other in filter(None, (case.hr, case.lr)):
        if restored.is_gray != looks[other].is_gray:
            colored = other if restored.is_gray else case.restored
            if not read_image(colored).is_gray:  # colours that are all gray do no harm
                problems.colors.append(f"{case.restored} and {other}")


def _look(path: Path) -> _Look:
    """Looks at a picture's header where that tells enough, or else at all of it."""
    try:
        with path.open("rb") as file, without_remarks():
            image = open_image(file, str(path), Limits())
            is_common = image.format in ("BMP", "JPEG", "MPO", "PNG", "PPM", "WEBP") and image.mode != "F"
            if is_common and not image.has_transparency_data:
                width, height = upright_size(image)
                is_gray = image.mode in ("1", "L", "I") or image.mode.startswith("I;16")
                return _Look(width, height, is_gray, has_alpha=False)
    except OSError as error:
        raise refusal(path, "cannot be read", error) from error
    except InputError as error:
        if error.code != "unknown_format":  # what Pillow does not know, others may
            raise
    return _look_whole(path)


def _look_whole(path: Path) -> _Look:
    picture = read_image(path)
    is_gray = picture.origin is not None and picture.origin.model == "gray"
    return _Look(picture.width, picture.height, is_gray, picture.alpha is not None)
