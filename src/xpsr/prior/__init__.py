"""The cross-modal prior: what is in a picture and what is wrong with it, in words."""

from xpsr.prior.texts import QUESTIONS, Level, Levels, Prior, Questions, clean_answer, quality_text

__all__ = ["QUESTIONS", "Level", "Levels", "Prior", "Questions", "clean_answer", "quality_text"]
