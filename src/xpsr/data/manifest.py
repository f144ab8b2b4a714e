"""The files beside stored pairs: their names, and what their lines say.

pairs/
  hr/NAME_0.png lr/NAME_0.png …   or shards/000000.tar … with shards/index.json
  teacher/NAME_0.png …            what another method made of LR, where somebody asked one
  manifest.jsonl                  a line for each pair: parameters, levels, sizes, hashes, source
  skipped.jsonl                   a line for each picture that could not be used, if there is any
  settings.json                   what they were made with
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xpsr.prior import Levels, Prior
from xpsr.prior.texts import read_prior

__all__ = ["INDEX", "JOURNAL", "MANIFEST", "SETTINGS", "SKIPPED", "TEACHER", "Texts"]

MANIFEST, JOURNAL, SKIPPED, SETTINGS = "manifest.jsonl", "manifest.jsonl.part", "skipped.jsonl", "settings.json"
INDEX, TEACHER = "index.json", "teacher"


@dataclass(frozen=True)
class Texts:
    """What is said of a stored pair: what is in it, what is wrong with its LR and with its HR."""

    content: str = ""
    quality: str = ""
    clean_quality: str = ""
    levels: Levels | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], place: str, lr: Prior | None = None, hr: Prior | None = None) -> "Texts":
        """Returns what a line of the manifest says, and the priors of both pictures, which go before it.

        An error begins with `place`, where the line stands.

        Raises:
            InputError: a text or a level in the line is of another kind.
        """
        told, lr, hr = read_prior(entry, place), lr or Prior(), hr or Prior()
        content = lr.content or hr.content or told.content
        return cls(content, lr.quality or told.quality, hr.quality, told.levels)
