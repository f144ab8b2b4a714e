"""What `xpsr batch` is told."""

import re
from dataclasses import dataclass

from xpsr.config.checks import Checked, Pattern, fault, option, within
from xpsr.config.upscale import UpscaleConfig

__all__ = ["BatchConfig"]

_SHARD = Pattern(r"[1-9][0-9]*/[1-9][0-9]*", "a share of pictures", "2/8 for the second of eight")


@dataclass(frozen=True, kw_only=True)
class BatchConfig(Checked):
    """How `xpsr batch` goes through many pictures, and how each of them is restored."""

    include: tuple[str, ...] = option((), "Patterns of the pictures to take; none: all of them.")
    exclude: tuple[str, ...] = option((), "Patterns of pictures to leave out.")
    name: str = option("{stem}", "Of results, without what their format adds; {stem}, {suffix} and {size} are known.")
    shard: str | None = option(None, "Which share of the pictures to take, I/N; null: all of them.", _SHARD)
    workers: int | None = option(
        None, "Processes; 0: none but this one; null: one for each graphics card or core.", within(0, 4096, "0 to 64")
    )
    threads: int = option(
        1, "Of each worker on a CPU. Results of other numbers may differ in their last bits.", within(1, 1024, "1 to 8")
    )
    retries: int = option(
        2, "How often a picture is tried again that may have failed by chance.", within(0, 1000, "0 to 10")
    )
    timeout: float | None = option(
        None, "Seconds after which whoever works on a picture is ended; null: never.", within(1, 10**7, "600")
    )
    ray: str | None = option(None, "HOST:PORT of a Ray cluster to work on, or auto or local; null: no Ray.")
    num_cpus: float = option(1.0, "Of a worker on Ray.", within(0, 1024, "1"))
    num_gpus: float = option(0.0, "Of a worker on Ray.", within(0, 64, "1"))
    upscale: UpscaleConfig = option(UpscaleConfig(), "How each picture is restored.")

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        super().__post_init__()
        if self.shard is not None and not 1 <= self.part[0] <= self.part[1]:
            raise fault(
                self, "shard", "is no share: the first number is above the second", "use 1/8 to 8/8, for example"
            )
        if self.ray is not None and self.workers is not None:
            raise fault(self, "workers", "is for this machine, and Ray has workers of its own", "leave one of them out")
        if self.workers == 0 and self.timeout is not None:
            raise fault(
                self, "timeout", "is for processes, which can be ended, and workers=0 has none", "leave one out"
            )
        for name, usual in (("num_cpus", 1), ("num_gpus", 0)):
            if self.ray is None and getattr(self, name) != usual:
                raise fault(self, name, "is for Ray", "leave it out, or add --ray auto")
        if self.upscale.protect not in (None, "auto"):
            raise fault(self.upscale, "protect", "is the mask of one picture", "use auto")

    @property
    def part(self) -> tuple[int, int]:
        """Which of how many shares of the pictures."""
        first, second = map(int, re.findall(r"\d+", self.shard or "1/1"))
        return first, second
