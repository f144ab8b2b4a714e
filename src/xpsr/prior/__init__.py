"""The cross-modal prior: what is in a picture and what is wrong with it, in words.

Each module imports only those named before it here. `texts` says what a prior is and what is asked for it, `views` what
is shown, `asking` what becomes of a bad answer. `protocol` says what a describer is: `files` what was written before,
`mini` the small one that comes with xpsr, `mllm` and `server` large models here and elsewhere. `describers` opens one
by name, `cache` asks about every picture once, and `lookup` puts all of it behind one call. What is not named below is
imported from its module, because it loads torch.
"""

from xpsr.prior.cache import describe_files
from xpsr.prior.describers import describe, is_asked, open_describer
from xpsr.prior.files import FileDescriber, PriorFile
from xpsr.prior.lookup import PriorLookup, completed, looking
from xpsr.prior.protocol import Describer
from xpsr.prior.texts import MAX_CHARACTERS, QUESTIONS, Level, Levels, Prior, Questions, clean_answer, quality_text

__all__ = [
    "Describer",
    "FileDescriber",
    "Level",
    "Levels",
    "MAX_CHARACTERS",
    "Prior",
    "PriorFile",
    "PriorLookup",
    "completed",
    "QUESTIONS",
    "Questions",
    "clean_answer",
    "describe",
    "describe_files",
    "is_asked",
    "looking",
    "open_describer",
    "quality_text",
]
