"""Votes of blind comparisons, and the ranking that they give."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xpsr.errors import InputError
from xpsr.evaluation.comparison import KEY_NAME
from xpsr.evaluation.tables import cell_of, row_of
from xpsr.files import read_bytes, refusal

__all__ = ["PRIOR_WINS", "Rank", "Ranking", "Vote", "Votes", "rank_votes", "ranking_table", "read_votes"]

PRIOR_WINS = 0.25
"""Wins that every method has over every other before anyone votes. Without them a method that never lost would be
infinitely strong; with them, of two methods, one that won the only vote is log(1.25 / 0.25) = 1.6 above the other."""

_RESAMPLES = 2000
_MAX_BYTES = 2**24

Choice: TypeAlias = Literal["left", "right", "tie"]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One choice between two results of a picture.

    Attributes:
        voter: token of who made it.
        picture: name of the picture.
        left: name of the method whose result was on the left.
        right: name of the other.
        choice: which is better.
        seconds: from when both were seen.
    """

    voter: str
    picture: str
    left: str
    right: str
    choice: Choice
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Votes:
    """What people chose on one page. `methods`: all that were compared, in the order in which they were named."""

    methods: tuple[str, ...]
    votes: tuple[Vote, ...]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A method in a ranking.

    Attributes:
        name: of the method.
        score: its strength in the model of Bradley and Terry, in natural logarithms of odds, with mean 0 over methods:
            one whose score is 1 higher wins with odds of e to 1, in 73 of 100 votes.
        low: lower end of the 95 % interval of `score`; None where all votes are about one picture.
        high: its upper end.
        win_rate: part of its votes that it won, ties counted half; None without votes.
        num_votes: in which it was one of the two.
    """

    name: str
    score: float
    low: float | None
    high: float | None
    win_rate: float | None
    num_votes: int


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Methods, the strongest first.

    Attributes:
        ranks: the methods.
        wins: votes of the method of the row over that of the column, ties counted half; both in the order of `ranks`.
        num_votes: in all.
        num_ties: of them.
        num_voters: who voted at least once.
        num_pictures: about which there are votes.
    """

    ranks: tuple[Rank, ...]
    wins: tuple[tuple[float, ...], ...]
    num_votes: int
    num_ties: int
    num_voters: int
    num_pictures: int


def read_votes(paths: Sequence[Path], *, key: Path | None = None) -> Votes:
    """Reads what the page of `write_comparison` saved, of one or more voters.

    Args:
        paths: files of votes.
        key: the key.json that was written with the page; None: that in the folder of the first file.

    Raises:
        InputError: no file is given, a file is missing or damaged, is of another page, or two are of one voter.
    """
    if not paths:
        raise InputError("no votes are given", code="missing", remedy="name the files that voters saved")
    for path in paths:  # before their key is looked for beside them
        try:
            path.stat()
        except OSError as error:
            raise refusal(path, "cannot be read", error) from error
    key = paths[0].parent / KEY_NAME if key is None else key
    if not key.is_file():
        message, remedy = f"{key}: is not there, and says whose results were seen", "name it with --key"
        raise InputError(message, code="not_found", remedy=remedy)
    answers = _loaded(key, "xpsr key")
    methods, pictures = (_texts(answers, field, key) for field in ("methods", "pictures"))
    votes: list[Vote] = []
    voters: dict[str, Path] = {}
    for path in paths:
        ballot = _loaded(path, "xpsr votes")
        if ballot.get("key") != answers.get("key"):
            message = (
                f"{path}: votes are of the page {ballot.get('key')!s:.40}, and {key} is of {answers.get('key')!s:.40}"
            )
            raise InputError(message, code="conflict", remedy="name the key.json that was written with that page")
        voter, entries = ballot.get("voter"), ballot.get("votes")
        if not isinstance(voter, str) or not isinstance(entries, list):
            raise _damaged(path, "it has no voter or no votes")
        if voter in voters:
            message = f"{path}: is of the same voter as {voters[voter]}"
            raise InputError(message, code="duplicate", remedy="keep the one that was saved last")
        voters[voter] = path
        votes += [_vote(entry, voter, methods, pictures, f"vote {at}", path) for at, entry in enumerate(entries, 1)]
        _refuse_repeats(votes[len(votes) - len(entries) :], path)
    return Votes(methods=tuple(methods.values()), votes=tuple(votes))


def _loaded(path: Path, kind: str) -> dict[str, Any]:
    content = read_bytes(path, limit=_MAX_BYTES)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "it is not JSON") from error
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise _damaged(path, f'its "kind" is not "{kind}"')
    if value.get("version") != 1:
        message = f"{path}: is of version {value.get('version')!s:.40}, and only 1 is known"
        raise InputError(message, code="unknown_version", remedy="use a newer xpsr")
    return value


def _texts(answers: Mapping[str, Any], field: str, path: Path) -> dict[str, str]:
    value = answers.get(field)
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value.values()):
        raise _damaged(path, f"it has no {field}")
    if len({*value.values()}) < len(value):
        raise _damaged(path, f"two of its {field} have one name")
    return value


def _vote(
    entry: Any, voter: str, methods: Mapping[str, str], pictures: Mapping[str, str], where: str, path: Path
) -> Vote:
    if not isinstance(entry, dict):
        raise _damaged(path, f"{where} is not an object")

    def named(field: str, known: Mapping[str, str]) -> str:
        token = entry.get(field)
        if not isinstance(token, str) or token not in known:
            raise _damaged(path, f"{where} has {token!s:.40} as its {field}, which is not in the key")
        return known[token]

    left, right, picture = named("left", methods), named("right", methods), named("picture", pictures)
    choice, seconds = entry.get("choice"), entry.get("seconds")
    if left == right or choice not in ("left", "right", "tie"):
        raise _damaged(path, f"{where} is no choice between two")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= sys.float_info.max:
        raise _damaged(path, f"{where} has no seconds")
    return Vote(voter=voter, picture=picture, left=left, right=right, choice=choice, seconds=float(seconds))


def _refuse_repeats(votes: Sequence[Vote], path: Path) -> None:
    seen: set[tuple[str, frozenset[str]]] = set()
    for number, vote in enumerate(votes, 1):
        pair = (vote.picture, frozenset((vote.left, vote.right)))
        if pair in seen:
            raise _damaged(path, f"vote {number} repeats one before it")
        seen.add(pair)


def _damaged(path: Path, problem: str) -> InputError:
    remedy = "save it again from the page, or name the key.json that was written with it"
    return InputError(f"{path}: cannot be used, {problem}", code="damaged", remedy=remedy)


def rank_votes(paths: Sequence[Path], *, key: Path | None = None, seed: int = 0) -> Ranking:
    """Ranks methods by votes: the model of Bradley and Terry, by maximum likelihood.

    A tie is half a win of each. Every method has `PRIOR_WINS` over every other beforehand, so that all scores are
    finite. Intervals are those of 2000 bootstrap samples of pictures, not of votes: several people who look at one
    picture say more about that picture, and little about the next.

    Args:
        paths: files of votes; `read_votes` says which are refused.
        key: the key.json of the page; None: that beside the first file.
        seed: of the bootstrap.

    Raises:
        InputError: as `read_votes`, or there is no vote in the files.
    """
    read = read_votes(paths, key=key)
    if not read.votes:
        raise InputError(f"{', '.join(map(str, paths))}: hold no votes", code="missing", remedy="vote first")
    place = {name: index for index, name in enumerate(read.methods)}
    pictures = {name: index for index, name in enumerate(sorted({vote.picture for vote in read.votes}))}
    wins = np.zeros((len(pictures), len(place), len(place)))  # of the row over the column, by picture
    for vote in read.votes:
        left, right = place[vote.left], place[vote.right]
        share = {"left": 1.0, "right": 0.0, "tie": 0.5}[vote.choice]
        wins[pictures[vote.picture], left, right] += share
        wins[pictures[vote.picture], right, left] += 1 - share
    total = wins.sum(axis=0)
    scores = _strengths(total[None])[0]
    lows: list[float | None] = [None] * len(place)
    highs = list(lows)
    if len(pictures) > 1:
        drawn = np.random.default_rng(seed).multinomial(
            len(pictures), np.full(len(pictures), 1 / len(pictures)), _RESAMPLES
        )
        samples = _strengths(np.einsum("bp,pij->bij", drawn.astype(float), wins))
        lows, highs = np.quantile(samples, [0.025, 0.975], axis=0).tolist()
    counts = (total + total.T).sum(axis=1)
    order = sorted(range(len(place)), key=lambda index: (-scores[index], read.methods[index]))
    ranks = [
        Rank(
            name=read.methods[index],
            score=float(scores[index]),
            low=lows[index],
            high=highs[index],
            win_rate=float(total[index].sum() / counts[index]) if counts[index] else None,
            num_votes=round(counts[index]),
        )
        for index in order
    ]
    return Ranking(
        ranks=tuple(ranks),
        wins=tuple(tuple(float(total[row, column]) for column in order) for row in order),
        num_votes=len(read.votes),
        num_ties=sum(vote.choice == "tie" for vote in read.votes),
        num_voters=len({vote.voter for vote in read.votes}),
        num_pictures=len(pictures),
    )


def _strengths(wins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (B, N) with mean 0 of wins (B, N, N) of row over column: the likelihood's only maximum, by Newton."""
    count = wins.shape[-1]
    wins = wins + PRIOR_WINS * (1 - np.eye(count))
    games = wins + wins.transpose(0, 2, 1)
    scores = np.zeros(wins.shape[:2])
    for _ in range(200):
        chances = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))  # of the row against the column
        slope = (wins - games * chances).sum(axis=2)
        weights = games * chances * (1 - chances)
        curve = np.eye(count) * weights.sum(axis=2)[..., None] - weights
        # the likelihood knows differences only: the matrix of ones holds their mean where it is
        steps = np.linalg.solve(curve + 1 / count, slope[..., None])[..., 0]
        steps /= np.maximum(np.abs(steps).max(axis=1, keepdims=True), 1)  # far from the maximum, Newton leaps too far
        scores = scores + steps
        if np.abs(steps).max() < 1e-10:
            break
    return scores - scores.mean(axis=1, keepdims=True)


def ranking_table(ranking: Ranking) -> str:
    """Returns a ranking as Markdown: the scores, and who was preferred to whom how often."""
    names = [cell_of(rank.name) for rank in ranking.ranks]
    lines = ["| method | score | 95 % interval | win rate | votes |", "|---|---:|---:|---:|---:|"]
    for name, rank in zip(names, ranking.ranks, strict=True):
        span = "–" if rank.low is None or rank.high is None else f"{rank.low:+.2f} to {rank.high:+.2f}"
        rate = "–" if rank.win_rate is None else f"{100 * rank.win_rate:.0f} %"
        lines.append(row_of([name, f"{rank.score:+.2f}", span, rate, f"{rank.num_votes}"]))
    lines += ["", row_of(["won against", *names]), "|---|" + "---:|" * len(names)]
    for at, (name, row) in enumerate(zip(names, ranking.wins, strict=True)):
        cells = [f"{won:g} of {won + ranking.wins[column][at]:g}" for column, won in enumerate(row)]
        cells[at] = ""
        lines.append(row_of([name, *cells]))
    votes, ties = _counted(ranking.num_votes, "vote"), _counted(ranking.num_ties, "tie")
    voters, pictures = _counted(ranking.num_voters, "voter"), _counted(ranking.num_pictures, "picture")
    lines += ["", f"{votes} ({ties}) of {voters} on {pictures}."]
    lines[-1] += (
        " Votes about one picture say nothing of others, so there are no intervals."
        if ranking.num_pictures == 1
        else " A score that is 1 higher wins 73 of 100 votes. Intervals are over pictures."
    )
    return "\n".join(lines) + "\n"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
