"""The cross-modal prior: what is in a picture and what is wrong with it, in words.

`texts` says what a prior is and `describers` who writes one: `mini` the small describer that comes with xpsr, `mllm`
and `server` large models here and elsewhere, `files` a person. `cache` keeps what was written, in a file to be edited.
What is not named below is imported from its module, because it loads torch.
"""

from xpsr.prior.cache import PriorFile, describe_files
from xpsr.prior.describers import Describer, open_describer
from xpsr.prior.files import FileDescriber
from xpsr.prior.texts import QUESTIONS, Level, Levels, Prior, Questions, clean_answer, quality_text

__all__ = [
    "QUESTIONS",
    "Describer",
    "FileDescriber",
    "Level",
    "Levels",
    "Prior",
    "PriorFile",
    "Questions",
    "clean_answer",
    "describe_files",
    "open_describer",
    "quality_text",
]
