"""Programs of others as methods: a command that is told where a picture, or a folder of them, is and where it goes."""

import os
import re
import shlex
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from xpsr.errors import XPSRError, printable
from xpsr.files import IMAGE_SUFFIXES, sha256

__all__ = ["Command", "find_outputs"]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program and its arguments; no shell sees them.

    Attributes:
        template: with {input} and {output} for a picture, or {inputs} and {outputs} for a folder, as `MethodConfig`
            has checked.
        folder: where it runs, and where paths in it start from.
        timeout: seconds that it may take; None: any.
    """

    template: str
    folder: Path
    timeout: float | None = None

    @property
    def words(self) -> list[str]:
        """Program and arguments, the places not filled in."""
        return shlex.split(self.template)

    @property
    def takes_folder(self) -> bool:
        """Whether it is run once for all pictures."""
        return "{inputs}" in self.template

    def program(self) -> str | None:
        """Returns where the program is; None: it is not installed."""
        name = self.words[0]
        if "/" in name or "\\" in name:
            return shutil.which(self.folder / name)
        return shutil.which(name)

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 of the program and of files among its arguments, so that a changed one is noticed."""
        program, *words = self.words
        files = {program: Path(self.program() or program), **{word: self.folder / word for word in words}}
        return {word: sha256(path) for word, path in files.items() if os.path.isfile(path)}  # noqa: PTH113 - raises

    def run(self, source: Path, target: Path, *, what: str) -> None:
        """Runs it from one picture or folder to another.

        Args:
            source: what is put for {input} or {inputs}.
            target: what is put for {output} or {outputs}.
            what: names the picture in errors.

        Raises:
            XPSRError: it ended with another exit code than 0, took too long or could not be started.
        """
        program, *words = self.words
        places = {"input": str(source.absolute()), "output": str(target.absolute())}
        arguments = [re.sub(r"\{(input|output)s?\}", lambda place: places[place[1]], word) for word in words]
        argv = [self.program() or program, *arguments]
        shown = shlex.join([program, *arguments])
        try:
            done = subprocess.run(
                argv,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            message = f"{what}: took more than {self.timeout:g} s: {shown}"
            raise XPSRError(message, code="timeout", remedy="give the method a larger timeout") from error
        except OSError as error:
            message = f"{what}: cannot be started ({error.strerror}): {shown}"
            raise XPSRError(message, code="not_started", remedy="check the program and its permissions") from error
        if done.returncode:
            said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            last = f"; it said: {printable(said[-1][:200])}" if said else ""
            code = done.returncode
            ended = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            raise XPSRError(f"{what}: the command {ended}: {shown}{last}", code="failed")


def find_outputs(folder: Path, names: Collection[str]) -> dict[str, Path]:
    """Returns the picture that a command has written for each name: NAME, or NAME and what begins with _, as NAME_out.

    A file is of the longest name that it begins with. There is none of a name of which there are several files.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    for path in folder.iterdir():
        name = path.stem
        while name not in names and "_" in name:
            name = name.rpartition("_")[0]
        if name in names and path.suffix.lower() in IMAGE_SUFFIXES:
            files[name].append(path)
    found = {name: [path for path in paths if path.stem == name] or paths for name, paths in files.items()}
    return {name: paths[0] for name, paths in found.items() if len(paths) == 1}
