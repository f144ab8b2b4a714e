"""Votes and the ranking that they give."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpsr.cli import main
from xpsr.errors import InputError
from xpsr.evaluation import Ranking, rank_votes, ranking_table, read_votes
from xpsr.evaluation.votes import PRIOR_WINS

METHODS = ("ant", "bat", "cow")
Entry = dict[str, Any]


def write_key(folder: Path, *, methods: Sequence[str] = METHODS, pictures: int = 40) -> Path:
    answers = {
        "kind": "xpsr key",
        "version": 1,
        "key": "k",
        "seed": 0,
        "methods": {f"m{name}": name for name in methods},
        "pictures": {f"p{at}": f"picture {at}" for at in range(pictures)},
    }
    (folder / "key.json").write_text(json.dumps(answers), encoding="utf-8")
    return folder / "key.json"


def entry(picture: int, left: str, right: str, choice: str) -> Entry:
    return {"picture": f"p{picture}", "left": f"m{left}", "right": f"m{right}", "choice": choice, "seconds": 1.5}


def write_votes(path: Path, votes: Sequence[Entry], *, voter: str = "v") -> Path:
    ballot = {"kind": "xpsr votes", "version": 1, "key": "k", "voter": voter, "pairs": 9, "votes": list(votes)}
    path.write_text(json.dumps(ballot), encoding="utf-8")
    return path


def simulate(strengths: dict[str, float], *, pictures: int, seed: int) -> list[Entry]:
    draw = random.Random(seed)
    votes = []
    for picture, (one, other) in itertools.product(range(pictures), itertools.combinations(strengths, 2)):
        left, right = draw.sample((one, other), 2)
        wins = draw.random() < 1 / (1 + np.exp(strengths[right] - strengths[left]))
        votes.append(entry(picture, left, right, "left" if wins else "right"))
    return votes


def scores_of(ranking: Ranking) -> dict[str, float]:
    return {rank.name: rank.score for rank in ranking.ranks}


def test_known_strengths_are_recovered_within_the_intervals(tmp_path):
    strengths = {"ant": 1.0, "bat": 0.0, "cow": -1.0}
    write_key(tmp_path, pictures=400)
    ranking = rank_votes([write_votes(tmp_path / "v.json", simulate(strengths, pictures=400, seed=1))])
    assert [rank.name for rank in ranking.ranks] == ["ant", "bat", "cow"]
    for rank in ranking.ranks:
        assert rank.low is not None and rank.high is not None
        assert rank.score == pytest.approx(strengths[rank.name], abs=0.2)
        assert rank.low < strengths[rank.name] < rank.high
        assert rank.high - rank.low < 0.5


def test_two_methods_have_the_odds_of_their_wins(tmp_path):
    """Of two, the maximum is known: the logarithm of the odds, with the wins that all have beforehand."""
    write_key(tmp_path, methods=("ant", "bat"))
    votes = [entry(at, "ant", "bat", choice) for at, choice in enumerate(["left"] * 5 + ["right"] + ["tie"] * 2)]
    ranking = rank_votes([write_votes(tmp_path / "v.json", votes)])
    odds = (6 + PRIOR_WINS) / (2 + PRIOR_WINS)
    assert [rank.score for rank in ranking.ranks] == pytest.approx([np.log(odds) / 2, -np.log(odds) / 2])
    assert [rank.win_rate for rank in ranking.ranks] == [0.75, 0.25]
    assert ranking.wins == ((0, 6), (2, 0))
    assert (ranking.num_votes, ranking.num_ties, ranking.num_voters, ranking.num_pictures) == (8, 2, 1, 8)


def test_who_never_loses_has_a_finite_score(tmp_path):
    write_key(tmp_path)
    votes = [entry(at, "ant", other, "left") for at in range(30) for other in ("bat", "cow")]
    ranking = rank_votes([write_votes(tmp_path / "v.json", votes)])
    best, *others = ranking.ranks
    assert (best.name, best.win_rate) == ("ant", 1.0)
    assert best.high is not None and np.isfinite(best.high)
    assert others[0].score == pytest.approx(others[1].score)


choices = st.tuples(
    st.integers(0, 5),
    st.permutations(METHODS).map(lambda names: tuple(names[:2])),
    st.sampled_from(["left", "right", "tie"]),
)
ballots = st.lists(choices, min_size=1, max_size=18, unique_by=lambda choice: (choice[0], frozenset(choice[1])))


@given(ballot=ballots, order=st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_and_sides_do_not_matter(tmp_path, ballot, order):
    write_key(tmp_path)
    mirror = {"left": "right", "right": "left", "tie": "tie"}
    votes = [entry(picture, *sides, choice) for picture, sides, choice in ballot]
    turned = [entry(picture, *sides[::-1], mirror[choice]) for picture, sides, choice in ballot]
    order.shuffle(turned)
    one, other = (rank_votes([write_votes(tmp_path / "v.json", each)]) for each in (votes, turned))
    assert one.wins == other.wins
    for rank, same in zip(one.ranks, other.ranks, strict=True):
        assert rank == same
    assert sum(scores_of(one).values()) == pytest.approx(0, abs=1e-9)
    assert sum(map(sum, one.wins)) == len(votes)


@given(ballot=ballots)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_who_never_won_against_anyone_is_not_above_who_never_lost(tmp_path, ballot):
    write_key(tmp_path)
    votes = [entry(picture, *sides, choice) for picture, sides, choice in ballot]
    ranking = rank_votes([write_votes(tmp_path / "v.json", votes)])
    rates = {rank.name: rank.win_rate for rank in ranking.ranks}
    scores = scores_of(ranking)
    for one, other in itertools.permutations(METHODS, 2):
        if rates[one] == 1 and rates[other] == 0:
            assert scores[one] > scores[other]


def test_the_same_from_more_voters_narrows_nothing(tmp_path):
    """Intervals are over pictures: ten who agree on six pictures have still seen six pictures."""
    write_key(tmp_path)
    votes = simulate({"ant": 0.8, "bat": 0.0, "cow": -0.8}, pictures=6, seed=3)
    one = rank_votes([write_votes(tmp_path / "0.json", votes)])
    paths = [write_votes(tmp_path / f"{voter}.json", votes, voter=str(voter)) for voter in range(10)]
    ten = rank_votes(paths)
    assert (ten.num_voters, ten.num_votes) == (10, 10 * one.num_votes)
    assert [rank.win_rate for rank in ten.ranks] == [rank.win_rate for rank in one.ranks]
    for rank, same in zip(ten.ranks, one.ranks, strict=True):
        assert rank.high is not None and rank.low is not None and same.high is not None and same.low is not None
        assert rank.high - rank.low > 0.9 * (same.high - same.low)
        assert abs(rank.score) >= abs(same.score) - 0.01  # what was assumed beforehand weighs less


def test_one_picture_gives_no_intervals(tmp_path):
    write_key(tmp_path)
    ranking = rank_votes([write_votes(tmp_path / "v.json", [entry(0, "ant", "bat", "left")])])
    assert {(rank.low, rank.high) for rank in ranking.ranks} == {(None, None)}
    assert ranking.ranks[1].win_rate is None  # of "cow", which nobody saw
    table = ranking_table(ranking)
    assert "| ant | +0.64 | – | 100 % | 1 |" in table
    assert "1 vote (0 ties) of 1 voter on 1 picture. Votes about one picture say nothing of others" in table


def test_table_says_who_won_against_whom(tmp_path):
    write_key(tmp_path, methods=("a|b", "bat"))
    votes = [entry(at, "a|b", "bat", choice) for at, choice in enumerate(("left", "left", "tie"))]
    table = ranking_table(rank_votes([write_votes(tmp_path / "v.json", votes)]))
    assert r"| won against | a\|b | bat |" in table
    assert r"| a\|b |  | 2.5 of 3 |" in table
    assert "| bat | 0.5 of 3 |  |" in table
    assert "3 votes (1 tie) of 1 voter on 3 pictures." in table


def test_names_are_cells_of_the_table_whatever_they_hold(tmp_path):
    write_key(tmp_path, methods=("*a*\n| b", "bat"))
    table = ranking_table(rank_votes([write_votes(tmp_path / "v.json", [entry(0, "*a*\n| b", "bat", "left")])]))
    assert len(table.splitlines()) == 11
    assert r"| \*a\*" in table


def test_key_is_found_beside_the_votes_or_named(tmp_path):
    (tmp_path / "page").mkdir()
    key = write_key(tmp_path / "page")
    votes = write_votes(tmp_path / "v.json", [entry(0, "ant", "bat", "tie")])
    with pytest.raises(InputError, match=r"key\.json: is not there.*--key"):
        read_votes([votes])
    (vote,) = read_votes([votes], key=key).votes
    assert (vote.picture, vote.left, vote.right, vote.choice, vote.seconds) == ("picture 0", "ant", "bat", "tie", 1.5)


def changed(**members: Any) -> Callable[[Entry], None]:
    return lambda ballot: ballot.update(members)


def with_vote(**members: Any) -> Callable[[Entry], None]:
    return lambda ballot: ballot["votes"][0].update(members)


@pytest.mark.parametrize(
    ("damage", "code", "said"),
    [
        (changed(key="another"), "conflict", "are of the page another"),
        (changed(kind="xpsr key"), "damaged", '"kind"'),
        (changed(version=2), "unknown_version", "only 1 is known"),
        (changed(votes=None), "damaged", "no voter or no votes"),
        (changed(voter=7), "damaged", "no voter or no votes"),
        (changed(votes=[]), "missing", "hold no votes"),
        (changed(votes=[1]), "damaged", "vote 1 is not an object"),
        (with_vote(left="mouse"), "damaged", "vote 1 has mouse as its left"),
        (with_vote(picture=["p0"]), "damaged", "as its picture"),
        (with_vote(right="mant"), "damaged", "no choice between two"),
        (with_vote(choice="both"), "damaged", "no choice between two"),
        (with_vote(seconds=-1), "damaged", "no seconds"),
        (with_vote(seconds="1"), "damaged", "no seconds"),
        (with_vote(seconds=10**400), "damaged", "no seconds"),
        (lambda ballot: ballot["votes"].append(ballot["votes"][0]), "damaged", "vote 2 repeats one before it"),
    ],
)
def test_votes_that_cannot_be_used_are_refused_in_a_line(tmp_path, damage, code, said):
    write_key(tmp_path)
    path = write_votes(tmp_path / "v.json", [entry(0, "ant", "bat", "left")])
    ballot = json.loads(path.read_text(encoding="utf-8"))
    damage(ballot)
    path.write_text(json.dumps(ballot), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        rank_votes([path])
    assert raised.value.code == code
    assert str(path) in str(raised.value) and said in str(raised.value)
    assert "\n" not in str(raised.value)


@given(
    content=st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["kind", "key", "votes", "version", "voter"]), inner)
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_read_or_refused(tmp_path, content):
    key = write_key(tmp_path)
    path = tmp_path / "v.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"v\.json"):
        read_votes([path], key=key)
    with pytest.raises(InputError, match=r"v\.json"):
        read_votes([key], key=path)


@pytest.mark.parametrize("has_key", [True, False])
def test_votes_that_are_not_there_are_told_so(tmp_path, has_key):
    if has_key:
        write_key(tmp_path)
    with pytest.raises(
        InputError, match=r"v\.json: cannot be read \(No such file or directory\); check the path"
    ) as raised:
        read_votes([tmp_path / "v.json"])
    assert raised.value.code == "not_found"


def test_a_key_that_calls_two_methods_alike_is_refused(tmp_path):
    key = write_key(tmp_path)
    key.write_text(key.read_text(encoding="utf-8").replace('"bat"', '"ant"'), encoding="utf-8")
    votes = write_votes(tmp_path / "v.json", [entry(0, "ant", "cow", "left")])
    with pytest.raises(InputError, match=r"key\.json: cannot be used, two of its methods have one name"):
        rank_votes([votes])


def test_one_voter_twice_and_nobody_are_refused(tmp_path):
    write_key(tmp_path)
    paths = [write_votes(tmp_path / f"{at}.json", [entry(0, "ant", "bat", "left")]) for at in range(2)]
    with pytest.raises(InputError, match=r"1\.json: is of the same voter as .*0\.json"):
        rank_votes(paths)
    with pytest.raises(InputError, match="no votes are given"):
        rank_votes([])


@pytest.mark.parametrize("flags", [["--votes", "a.json", "b.json"], ["--votes", "a.json", "--votes", "b.json"]])
def test_all_files_of_votes_count_however_they_are_named(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page").mkdir()
    write_key(tmp_path / "page")
    for voter in ("a", "b"):
        write_votes(tmp_path / f"{voter}.json", [entry(0, "ant", "bat", "left")], voter=voter)
    assert main(["evaluate", *flags, "--key", "page/key.json"]) == 0
    assert "2 votes (0 ties) of 2 voters" in capsys.readouterr().out
