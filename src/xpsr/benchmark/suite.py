"""A suite as it stands in its file, with the folders that it was given; its sets as pictures."""

import dataclasses
import fnmatch
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xpsr.config import BenchmarkConfig, MethodConfig, SetConfig, load_config, suggest
from xpsr.errors import InputError
from xpsr.files import list_images, partner

__all__ = ["Pair", "PictureSet", "Suite", "link_all", "load_suite", "named_folder", "open_set"]

Named = TypeVar("Named", MethodConfig, SetConfig)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is to be run.

    Attributes:
        name: that of its file, without suffix.
        folder: where its file is, and where commands run.
        config: what it says; the paths of its sets, and of models and protocols that are there, start from no folder.
    """

    name: str
    folder: Path
    config: BenchmarkConfig

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return self.config.baseline or self.config.methods[0].name

    def only(self, *, methods: Sequence[str] | None = None, sets: Sequence[str] | None = None) -> "Suite":
        """Returns a suite with only the methods and sets of these names; None: all of them.

        Raises:
            InputError: there is none of a name.
        """
        chosen_methods = _chosen(self.config.methods, methods, "method", self.name)
        chosen_sets = _chosen(self.config.sets, sets, "set", self.name)
        names = [method.name for method in chosen_methods]
        baseline = self.config.baseline if self.config.baseline in names else None
        config = dataclasses.replace(self.config, methods=chosen_methods, sets=chosen_sets, baseline=baseline)
        return dataclasses.replace(self, config=config)


def _chosen(there: Sequence[Named], names: Sequence[str] | None, what: str, suite: str) -> tuple[Named, ...]:
    known = {one.name: one for one in there}
    for name in names or ():
        if name not in known:
            meant = suggest(name, list(known)).removeprefix("; ") or f"there are: {', '.join(known)}"
            raise InputError(f"{name} is no {what} of {suite}", code="not_found", remedy=meant)
    return tuple(one for one in there if names is None or one.name in names)


def load_suite(path: Path, *, folders: Sequence[tuple[str, Path]] = ()) -> Suite:
    """Returns the suite of a YAML file.

    Args:
        path: the file; paths in it start from its folder.
        folders: folders of sets instead of those that it names, by the set's name or a pattern such as "small-*".

    Raises:
        InputError: the file is missing or says what no suite can be, or a pattern fits no set.
    """
    if not path.is_file():
        remedy = "a clone of xpsr has some to start from in suites/"
        raise InputError("no such suite", code="not_found", source=str(path), remedy=remedy)
    config = load_config(BenchmarkConfig, path)
    for field, there in (("sets", config.sets), ("methods", config.methods)):
        if not there:
            remedy = "give one at least"
            raise InputError("is empty", code="missing", field=field, source=str(path), remedy=remedy)
    base = path.parent
    sets = [
        dataclasses.replace(
            one,
            folder=base / one.folder,
            priors=one.priors and base / one.priors,
            by_hand=one.by_hand and base / one.by_hand,
        )
        for one in config.sets
    ]
    for pattern, folder in folders:
        fitting = [place for place, one in enumerate(sets) if fnmatch.fnmatchcase(one.name, pattern)]
        if not fitting:
            names = [one.name for one in sets]
            meant = suggest(pattern, names).removeprefix("; ") or f"there are: {', '.join(names)}"
            raise InputError(f"{pattern} is no set of {path}", code="not_found", remedy=meant)
        for place in fitting:
            sets[place] = dataclasses.replace(sets[place], folder=folder)
    methods = [
        dataclasses.replace(one, model=str(base / one.model))
        if one.model is not None and (base / one.model).is_dir()
        else one
        for one in config.methods
    ]
    protocol = str(base / config.protocol) if (base / config.protocol).is_file() else config.protocol
    changed = dataclasses.replace(config, sets=tuple(sets), methods=tuple(methods), protocol=protocol)
    return Suite(name=path.stem, folder=base.absolute(), config=changed)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A picture to restore and its original, by the name that both have."""

    name: str
    lr: Path
    hr: Path | None


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """A set whose pictures are there, sorted by name."""

    config: SetConfig
    pairs: tuple[Pair, ...]

    @property
    def name(self) -> str:
        """As the tables call it."""
        return self.config.name


def open_set(config: SetConfig) -> PictureSet:
    """Returns the pictures of a set.

    Raises:
        InputError: a folder is not there (code "no_set"; the error says how to come by it), or pictures and originals
            are no pairs.
    """
    lr_dir = config.folder / config.lr
    hr_dir = None if config.hr is None else config.folder / config.hr
    for folder in (lr_dir, hr_dir):
        if folder is not None and not folder.exists():
            remedy = f"--set {config.name}=FOLDER says where it is"
            remedy += f". {config.how.strip().rstrip('.')}" if config.how else ""
            message = f"set {config.name}: {folder} is not there"
            raise InputError(message, code="no_set", remedy=" ".join(remedy.split()))
    lr = _by_name(list_images(lr_dir), config.endings)
    if hr_dir is None:
        pairs = [Pair(name=name, lr=partner(images[0], images, lr_dir), hr=None) for name, images in lr.items()]
    else:
        hr = _by_name(list_images(hr_dir), config.endings)
        for name, images in hr.items():
            partner(images[0], lr.get(name, ()), lr_dir)
        pairs = []
        for name, images in lr.items():
            original = partner(images[0], hr.get(name, ()), hr_dir)
            pairs.append(Pair(name=name, lr=partner(original, images, lr_dir), hr=original))
    return PictureSet(config=config, pairs=tuple(sorted(pairs, key=lambda pair: pair.name)))


def _by_name(images: Sequence[Path], endings: Sequence[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for image in images:
        ending = max((end for end in endings if image.stem.endswith(end)), key=len, default="")
        found.setdefault(image.stem.removesuffix(ending), []).append(image)
    return found


def named_folder(pairs: Sequence[Pair], which: Callable[[Pair], Path], place: Path) -> Path:
    """Returns a folder in which the pictures are called by their names and nothing else lies.

    That is the folder where they are, if it is so; or else `place`, which is filled with links to them, or with copies
    where there can be no links.
    """
    paths = {pair.name: which(pair) for pair in pairs}
    home = next(iter(paths.values())).parent
    if all(path.stem == name for name, path in paths.items()) and len(list_images(home)) == len(paths):
        return home
    link_all(paths, place)
    return place


def link_all(paths: dict[str, Path], place: Path) -> None:
    """Makes a folder of links to files, under other names; what was there goes."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name, path in paths.items():
        target = place / f"{name}{path.suffix}"
        try:
            target.symlink_to(path.absolute())
        except OSError:  # on Windows, whoever may not
            shutil.copyfile(path, target)
