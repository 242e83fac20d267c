"""The statistics of votes against closed forms, simulations with a known truth, and what must not change them."""

import math

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf_images.preferences import Event
from rlhf_images.preferences.agreement import (
    RIDGE,
    Share,
    bradley_terry,
    ceiling,
    detectable,
    elo,
    krippendorff_alpha,
    position_bias,
    self_agreement,
    votes_needed,
)
from rlhf_images.preferences.events import CHOICES, other_side


def vote(pair, choice, annotator="ann", **more) -> Event:
    return Event(f"{pair} {annotator} {more}", "vote", str(pair), annotator, choice, **more)


@given(st.integers(0, 60), st.integers(1, 60))
def test_the_interval_of_a_share_is_exact(count, n):
    count = min(count, n)
    share = Share.of(count, n)
    assert share.low <= share.value == count / n <= share.high
    assert stats.binom.sf(count - 1, n, share.low) == pytest.approx(0.025, abs=1e-6) or count == share.low == 0
    assert stats.binom.cdf(count, n, share.high) == pytest.approx(0.025, abs=1e-6) or share.high == 1 == count / n


def test_a_share_of_nothing_is_none():
    assert Share.of(0, 0) is None


@given(st.floats(0.5, 1))
def test_the_ceiling_undoes_the_agreement_of_two_answers(p):
    assert ceiling(p**2 + (1 - p) ** 2) == pytest.approx(p, abs=1e-7)


@pytest.mark.parametrize(("r", "p"), [(1, 1), (0.5, 0.5), (0.3, 0.5), (0, 0.5), (0.82, 0.9)])
def test_the_ceiling_at_known_points(r, p):
    assert ceiling(r) == pytest.approx(p)


@pytest.mark.parametrize("r", [-0.1, 1.1, math.nan])
def test_no_ceiling_of_what_is_no_share(r):
    with pytest.raises(ValueError, match="agreement"):
        ceiling(r)


def test_the_ceiling_of_a_simulated_person_is_their_reliability():
    drawn = np.random.default_rng(0).random((2, 20_000)) < 0.85
    first, again = ([vote(i, "left" if right else "right") for i, right in enumerate(row)] for row in drawn)
    found = self_agreement(first, again)
    assert found.value == pytest.approx(0.85**2 + 0.15**2, abs=0.01)
    assert ceiling(found.value) == pytest.approx(0.85, abs=0.01)


def test_self_agreement_compares_decided_answers_to_the_same_pair():
    first = [vote(0, "left"), vote(1, "right"), vote(2, "tie"), vote(3, "left"), vote(4, "left")]
    again = [vote(0, "left"), vote(1, "left"), vote(2, "left"), vote(3, "both_bad"), vote(9, "left")]
    found = self_agreement(first, again)
    assert (found.count, found.n) == (1, 2)
    assert self_agreement(first, []) is None


def test_one_who_always_takes_the_left_side_disagrees_with_themselves():
    sides = [i % 3 == 0 for i in range(30)]
    first = [vote(i, "right" if swapped else "left", swapped=swapped) for i, swapped in enumerate(sides)]
    again = [vote(i, "left" if swapped else "right", swapped=not swapped) for i, swapped in enumerate(sides)]
    assert self_agreement(first, again).value == 0
    assert position_bias([*first, *again]).value == 1


@given(st.lists(st.tuples(st.sampled_from(CHOICES), st.booleans())))
def test_position_bias_is_of_the_screen_and_turns_with_it(answers):
    votes = [vote(i, choice, swapped=swapped) for i, (choice, swapped) in enumerate(answers)]
    turned = [vote(i, choice, swapped=not swapped) for i, (choice, swapped) in enumerate(answers)]
    found, other = position_bias(votes), position_bias(turned)
    on_left = sum((other_side(choice) if swapped else choice) == "left" for choice, swapped in answers)
    decided = sum(choice in ("left", "right") for choice, _ in answers)
    assert (found is None) == (decided == 0)
    if found:
        assert (found.count, found.n) == (on_left, decided)
        assert other.count == decided - on_left


def alpha_by_definition(table: list[list[int | None]], distance) -> float | None:
    """Return 1 − observed / expected disagreement, straight from the definition."""
    units = [[row[unit] for row in table if row[unit] is not None] for unit in range(len(table[0]))]
    units = [values for values in units if len(values) >= 2]
    pool = [value for values in units for value in values]
    if len(set(pool)) < 2:
        return None
    counts = {value: pool.count(value) for value in set(pool)}
    observed = sum(sum(distance(a, b, counts) for a in u for b in u) / (len(u) - 1) for u in units) / len(pool)
    expected = sum(distance(a, b, counts) for a in pool for b in pool) / (len(pool) * (len(pool) - 1))
    return 1 - observed / expected


def ordinal(a: int, b: int, counts: dict[int, int]) -> float:
    between = sum(counts.get(value, 0) for value in range(min(a, b), max(a, b) + 1))
    return (between - (counts[a] + counts[b]) / 2) ** 2


@given(st.lists(st.lists(st.sampled_from([None, *CHOICES]), min_size=6, max_size=6), min_size=2, max_size=4))
def test_alpha_is_krippendorffs(rows):
    votes = [vote(u, value, f"a{r}") for r, row in enumerate(rows) for u, value in enumerate(row) if value]
    number = {choice: place for place, choice in enumerate(CHOICES)}
    table = [[None if value is None else number[value] for value in row] for row in rows]
    expected = alpha_by_definition(table, lambda a, b, _: a != b)
    found = krippendorff_alpha(votes)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))
    grade = {"left": -1, "right": 1, "tie": 0, "both_bad": 0}
    graded = [[None if value is None else grade[value] for value in row] for row in rows]
    expected = alpha_by_definition(graded, ordinal)
    found = krippendorff_alpha(votes, ordinal=True)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_strengths_count_in_the_graded_alpha_only():
    mild = [vote(i, "left" if i % 2 else "right", who) for i in range(10) for who in ("ann", "bob")]
    strong = [vote(i, v.choice, "bob", strength=2) for i, v in enumerate(mild[::2])]
    mixed = [*mild[::2], *strong]
    assert krippendorff_alpha(mild) == krippendorff_alpha(mixed) == krippendorff_alpha(mild, ordinal=True) == 1
    assert 0.5 < krippendorff_alpha(mixed, ordinal=True) < 1


def test_alpha_of_people_who_answer_at_random_is_about_0():
    drawn = np.random.default_rng(0).integers(0, 4, (3, 3000))
    votes = [vote(u, CHOICES[value], f"a{r}") for r, row in enumerate(drawn) for u, value in enumerate(row)]
    assert abs(krippendorff_alpha(votes)) < 0.03


@pytest.mark.parametrize("votes", [[], [vote(0, "left")], [vote(0, "left"), vote(1, "left", "bob")]])
def test_alpha_of_nothing_shared_is_none(votes):
    assert krippendorff_alpha(votes) is None


RESULTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: pair[0] != pair[1]), max_size=30)


@settings(max_examples=30)
@given(RESULTS, RESULTS)
def test_strengths_are_where_the_penalised_likelihood_is_flat(won, tied):
    wins, ties = ([(f"s{a}", f"s{b}") for a, b in pairs] for pairs in (won, tied))
    strengths = bradley_terry(wins, ties)
    assert list(strengths.values()) == sorted(strengths.values(), reverse=True)
    assert sum(strengths.values()) == pytest.approx(0, abs=1e-9)
    for name, strength in strengths.items():
        slope = RIDGE * strength
        halves = [(*pair, 1.0) for pair in wins] + [(*side, 0.5) for a, b in ties for side in ((a, b), (b, a))]
        for winner, loser, weight in halves:
            lost = weight / (1 + math.exp(strengths[winner] - strengths[loser]))
            slope += lost * ((name == loser) - (name == winner))
        assert slope == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("ridge", [0.01, RIDGE, 3.0])
@pytest.mark.parametrize(("names", "games"), [(2, 7), (4, 25), (7, 300)])
def test_strengths_are_choixs(names, games, ridge):
    """choix's penalty is α Σ strength², so α is half of our ridge; half a win each is a tie, so all is told twice."""
    draw = np.random.default_rng(names)
    met = [tuple(draw.choice(names, 2, replace=False).tolist()) for _ in range(games)]
    wins, ties = met[: 3 * games // 4], met[3 * games // 4 :]
    twice = [*wins, *wins, *ties, *((loser, winner) for winner, loser in ties)]
    expected = choix.opt_pairwise(names, twice, alpha=ridge, tol=1e-12)
    named = [[(f"s{a}", f"s{b}") for a, b in pairs] for pairs in (wins, ties)]
    found = bradley_terry(*named, ridge=ridge)
    assert [found[f"s{i}"] for i in range(names)] == pytest.approx(expected - expected.mean(), abs=1e-6)


def test_strengths_turn_with_the_results_and_stay_finite_on_a_perfect_record():
    wins = [("b", "a")] * 50
    strengths = bradley_terry(wins)
    assert list(strengths) == ["b", "a"]
    assert 2 < strengths["b"] < 4
    turned = bradley_terry([(loser, winner) for winner, loser in wins])
    assert turned == pytest.approx({"a": strengths["b"], "b": strengths["a"]})
    assert bradley_terry([], [("a", "b")] * 9) == pytest.approx({"a": 0, "b": 0})
    assert bradley_terry([]) == {}
    with pytest.raises(ValueError, match="ridge"):
        bradley_terry(wins, ridge=0)


def test_strengths_are_found_again_from_simulated_votes():
    truth = {"a": 1.0, "b": 0.2, "c": -0.3, "d": -0.9}
    draw = np.random.default_rng(0)
    wins = []
    for _ in range(6000):
        one, two = draw.choice(list(truth), 2, replace=False)
        first = draw.random() < 1 / (1 + math.exp(truth[two] - truth[one]))
        wins.append((str(one), str(two)) if first else (str(two), str(one)))
    assert bradley_terry(wins) == pytest.approx(truth, abs=0.1)


def test_four_hundred_points_of_elo_are_ten_to_one():
    assert elo(0) == 1000
    assert elo(math.log(10)) == pytest.approx(1400)


@pytest.mark.parametrize(("rate", "votes"), [(0.55, 783), (0.6, 194), (0.65, 85), (0.7, 47)])
def test_votes_needed(rate, votes):
    assert votes_needed(rate) == votes_needed(1 - rate) == votes
    wins = np.arange(votes + 1)
    significant = np.abs(wins - votes / 2) / math.sqrt(votes / 4) >= stats.norm.ppf(0.975)
    power = stats.binom.pmf(wins, votes, rate)[significant].sum()
    assert power == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("rate", [0, 0.5, 1, math.nan])
def test_no_number_of_votes_tells_that(rate):
    with pytest.raises(ValueError, match="win rate"):
        votes_needed(rate)


@given(st.integers(0, 20_000))
def test_what_can_be_told_needs_no_more_votes_than_there_are(votes):
    rate = detectable(votes)
    assert rate == 1 or votes_needed(rate) <= votes
    assert rate <= 0.51 or votes_needed(round(min(rate, 1) - 0.01, 2)) > votes
    assert detectable(votes + 1) <= rate
