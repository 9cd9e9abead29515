"""Tests of merging boxes of slices to candidates, on stacks made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmb_bundle.scripts.detection.candidates import (
    CANDIDATE_COLUMNS,
    candidates_from_table,
    candidates_to_table,
    merge_slices,
)

SPACING = (0.5, 0.5, 2.0)


def box(i, j, size=6.0):
    """A box around the continuous voxel index (i, j)."""
    return [i + 0.5 - size / 2, j + 0.5 - size / 2, i + 0.5 + size / 2, j + 0.5 + size / 2]


def stack(number_of_slices, *entries):
    """Detections of all slices from entries (k, box, score)."""
    return [
        (
            torch.tensor([b for k, b, _ in entries if k == number], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([s for k, _, s in entries if k == number], dtype=torch.float32),
        )
        for number in range(number_of_slices)
    ]


def merged(*args, **options):
    """What :func:`merge_slices` returns, as a table without the probability."""
    return candidates_to_table(merge_slices(*args, **options))[:, :6]


def test_columns():
    first = ("i", "j", "k", "diameter_mm", "detector_score", "n_slices")
    assert (*first, "classifier_probability", "probability") == CANDIDATE_COLUMNS


def test_candidates_survive_as_a_table():
    entries = [(4, box(10, 20, 4), 0.25), (5, box(11, 20, 8), 0.5), (1, box(30, 30), 0.75)]
    found = merge_slices(stack(9, *entries), SPACING)
    assert [(c.detector_score, c.n_slices, c.probability) for c in found] == [(0.75, 1, None), (0.5, 2, None)]
    classified = [replace(found[0], classifier_probability=0.5, probability=0.125), found[1]]
    table = candidates_to_table(classified)
    assert table.dtype == torch.float32
    assert table[0, 6:].tolist() == [0.5, 0.125]
    assert table[1, 6:].isnan().all()
    assert candidates_from_table(table) == classified
    padded = torch.cat([table, torch.full((3, len(CANDIDATE_COLUMNS)), torch.nan)])
    assert candidates_from_table(padded) == classified
    assert candidates_to_table([]).shape == (0, len(CANDIDATE_COLUMNS))
    assert candidates_from_table(candidates_to_table([])) == []


def test_one_lesion_on_three_slices_is_one_candidate():
    entries = [(4, box(10, 20, 4), 0.2), (5, box(11, 20, 8), 0.6), (6, box(12, 22, 6), 0.2)]
    candidates = merged(stack(9, *entries), SPACING)
    # means weighted 0.2, 0.6, 0.2; diameters 2, 4 and 3 mm
    np.testing.assert_allclose(candidates, [[11, 20.4, 5, 3.4, 0.6, 3]], rtol=1e-5)
    assert candidates.dtype == torch.float32


def test_extents_are_in_mm_of_their_own_axis():
    entries = [(0, [0.0, 0.0, 4.0, 10.0], 0.5)]
    candidates = merged(stack(1, *entries), (2.0, 0.5, 1.0))
    np.testing.assert_allclose(candidates, [[1.5, 4.5, 0, (8 + 5) / 2, 0.5, 1]])


def test_radius_is_in_mm_of_its_own_axis():
    for other, number in ((box(12, 0), 1), (box(14, 0), 2), (box(0, 6), 1), (box(0, 7), 2)):
        entries = [(0, box(0, 0), 0.9), (0, other, 0.5)]
        assert len(merged(stack(1, *entries), (0.25, 0.5, 1.0), merge_mm=3)) == number


def test_the_plane_and_the_slices_make_a_cylinder():
    """Both at their limit at once: 3 mm in the plane and one slice."""
    entries = [(0, box(0, 0), 0.9), (1, box(6, 0), 0.5)]
    assert len(merged(stack(2, *entries), SPACING, merge_mm=3)) == 1


def test_a_gap_parts_and_a_larger_max_gap_joins():
    entries = [(2, box(5, 5), 0.9), (4, box(5, 5), 0.8)]
    apart = merged(stack(6, *entries), (0.5, 0.5, 1.0))
    np.testing.assert_allclose(apart[:, [2, 4, 5]], [[2, 0.9, 1], [4, 0.8, 1]], rtol=1e-6)
    together = merged(stack(6, *entries), (0.5, 0.5, 1.0), max_gap=2)
    np.testing.assert_allclose(together[:, [2, 4, 5]], [[(2 * 0.9 + 4 * 0.8) / 1.7, 0.9, 2]], rtol=1e-6)


def test_half_height_is_merge_mm_but_one_slice_at_least():
    def lengths(spacing, merge_mm):
        entries = [(k, box(5, 5), 0.9 if k == 4 else 0.5 - k / 100) for k in range(9)]
        return merged(stack(9, *entries), spacing, merge_mm)[0, 5].item()

    assert lengths((0.5, 0.5, 1.0), 3.0) == 7
    assert lengths((0.5, 0.5, 1.0), 2.9) == 5
    assert lengths((0.5, 0.5, 5.0), 3.0) == 3


def test_a_lesion_of_many_slices_is_one_candidate():
    """Slices of 2 mm and 4 mm of merging: the cylinder holds five of the seven."""
    spacing = (0.5, 0.5, 2.0)
    tall = [(k, box(10, 20), score) for k, score in enumerate((0.3, 0.5, 0.8, 0.9, 0.7, 0.6, 0.4), start=1)]
    (found,) = merged(stack(9, *tall), spacing, 4.0).tolist()
    assert found[4:] == [pytest.approx(0.9), 5]
    scores = [score for *_, score in tall]
    assert found[2] == pytest.approx(np.average(range(1, 8), weights=scores), rel=1e-6)
    # what is not above it, or apart from it by a slice, is another
    beside = merged(stack(9, *tall[:-1], (7, box(13, 20), 0.4)), spacing, 4.0)
    without = np.average(range(1, 7), weights=scores[:-1])
    np.testing.assert_allclose(beside[:, [0, 2, 4]], [[10, without, 0.9], [13, 7, 0.4]], rtol=1e-5)
    apart = merged(stack(9, *tall[:-2], (7, box(10, 20), 0.4)), spacing, 4.0)
    np.testing.assert_allclose(apart[1:, [0, 2, 4]], [[10, 7, 0.4]], rtol=1e-5)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        # two microbleeds of a simulated head, 7.5 mm apart: SWI and phase, SWI alone
        ((0.91, 0.98, 0.79, 0.11, 0.26, 0.97, 0.77), [0.98, 0.97]),
        ((0.98, 0.99, 0.96, 0.64, 0.59, 0.94, 0.83), [0.99, 0.94]),
        # nearer, but with next to nothing between
        ((0.04, 0.98, 0.79, 0.11, 0.97, 0.5), [0.98, 0.97]),
        # one, in slices of 5 to 6 mm
        ((0.38, 0.78, 0.65, 0.8, 0.96, 0.95, 0.54), [0.96]),
        ((0.03, 0.91, 0.97, 0.92, 0.85, 0.8, 0.55, 0.07), [0.97]),
    ],
)
def test_one_lesion_or_two_above_each_other(scores, kept):
    tower = [(k, box(10, 20), score) for k, score in enumerate(scores, start=2)]
    found = merged(stack(12, *tower), (0.5, 0.5, 2.0), 4.0)
    np.testing.assert_allclose(found[:, 4], kept, rtol=1e-6)


PLATEAU = (0.12, 0.94, 0.96, 0.93, 0.88, 0.91, 0.98, 0.98, 0.18)
"""A microbleed of 3.4 mm in a minimum intensity projection over four slices of 3.6 mm: nine slices of 2 mm."""


@pytest.mark.parametrize(
    ("bright", "kept"),
    [
        ((), [(5.06, 0.98)]),  # dark all the way: one microbleed, in the middle of the column
        ((4,), [(6.15, 0.98), (2.42, 0.96)]),  # two, where it is bright between
        ((5,), [(6.15, 0.98), (2.42, 0.96)]),
        ((8,), [(5.06, 0.98)]),
    ],
)
def test_what_is_dark_between_ends_that_score_best_is_one_microbleed(bright, kept):
    tower = [(k, box(10, 20), score) for k, score in enumerate(PLATEAU, start=1)]
    swi = np.full((40, 40, 12), 0.6, dtype=np.float32)
    swi[9:12, 19:22, 1:10] = 0.1
    swi[9:12, 19:22, list(bright)] = 0.5
    found = merge_slices(stack(12, *tower), (0.5, 0.5, 2.0), 4.0, swi=torch.from_numpy(swi))
    assert [(round(c.model_voxel[2], 2), round(c.detector_score, 2)) for c in found] == kept
    assert len(merge_slices(stack(12, *tower), (0.5, 0.5, 2.0), 4.0)) == 2  # nothing is known of what is between


def test_a_column_beyond_the_edge_of_the_slices_is_one_candidate_too():
    tower = [(k, box(-3, 41), score) for k, score in enumerate(PLATEAU, start=1)]
    (found,) = merge_slices(stack(12, *tower), (0.5, 0.5, 2.0), 4.0, swi=np.full((40, 40, 12), 0.1, dtype=np.float32))
    assert found.model_voxel == pytest.approx((-3, 41, 5.06), abs=0.01)


def test_a_vein_is_not_glued_to_the_microbleed_beside_it():
    """An oblique chain of weak boxes, 2 mm a slice, passes a strong box; chained linking would make it one."""
    vein = [(k, box(4 * k, 0), 0.3) for k in range(12)]
    candidates = merged(stack(12, *vein, (6, box(24, 8), 0.9)), SPACING)
    assert len(candidates) > 4
    lesion = candidates[0]
    assert lesion[4].item() == pytest.approx(0.9)
    assert np.hypot(lesion[0] - 24, lesion[1] - 8) * 0.5 < 1e-5
    assert candidates[:, 5].sum() == 13
    assert candidates[:, 5].max() <= 3


def test_two_lesions_in_one_slice_keep_their_own_boxes():
    entries = [(k, box(j, 10), s) for k in (1, 2) for j, s in ((10, 0.8), (20, 0.7))]
    candidates = merged(stack(4, *entries), SPACING)
    np.testing.assert_allclose(candidates, [[10, 10, 1.5, 3, 0.8, 2], [20, 10, 1.5, 3, 0.7, 2]], rtol=1e-6)


def test_several_boxes_of_one_slice_count_once():
    entries = [(1, box(10, 10), 0.9), (1, box(12, 10), 0.3), (2, box(10, 10), 0.3)]
    candidates = merged(stack(3, *entries), SPACING)
    np.testing.assert_allclose(candidates, [[10.4, 10, 1.2, 3, 0.9, 2]], rtol=1e-5)


def test_no_boxes():
    for detections in ([], stack(3)):
        assert merged(detections, SPACING).shape == (0, 6)


def test_score_over_two_slices_is_the_mean_of_their_odds():
    entries = [(2, box(10, 10), 0.9), (1, box(10, 10), 0.5), (1, box(11, 10), 0.2), (3, box(10, 10), 0.3)]
    alone = [(1, box(30, 30), 0.8), (1, box(31, 30), 0.7)]
    candidates = merged(stack(5, *entries, *alone), SPACING, score_slices=2)
    # odds 9 and 1 on the two best slices: geometric mean 3; 4 and 0.005 / 0.995 where there is one slice
    odds = np.sqrt(4 * 0.005 / 0.995)
    np.testing.assert_allclose(candidates[:, 4], [3 / 4, odds / (1 + odds)], rtol=1e-6)
    plain = merged(stack(5, *entries, *alone), SPACING)
    np.testing.assert_allclose(plain[:, 4], [0.9, 0.8], rtol=1e-6)
    np.testing.assert_allclose(candidates[:, [0, 1, 2, 3, 5]], plain[:, [0, 1, 2, 3, 5]])


def test_score_of_a_slice_without_a_box_is_chosen():
    alone = [(1, box(30, 30), 0.8)]
    candidates = merged(stack(5, *alone), SPACING, score_slices=2, missing_slice_score=0.2)
    # odds 4 and 1/4
    np.testing.assert_allclose(candidates[:, 4], [0.5], rtol=1e-6)


def test_score_over_two_slices_of_certain_boxes():
    entries = [(1, box(10, 10), 1.0), (2, box(10, 10), 1.0), (1, box(40, 10), 0.0)]
    candidates = merged(stack(3, *entries), SPACING, score_slices=2)
    np.testing.assert_allclose(candidates[:, 4], [0.995, 0.005], rtol=1e-5)


def test_scores_of_zero():
    entries = [(1, box(10, 10), 0.0), (2, box(12, 10), 0.0)]
    np.testing.assert_allclose(merged(stack(3, *entries), SPACING), [[11, 10, 1.5, 3, 0, 2]])


def slow_merge(entries, spacing, merge_mm, max_gap):
    """The rule again, one box after the other."""
    free = sorted(entries, key=lambda e: -e[2])
    result = []
    while free:
        seed = free[0]
        reach = max(max_gap, int(merge_mm // spacing[2]))

        def centre(e):
            return np.array([(e[1][0] + e[1][2]) / 2 - 0.5, (e[1][1] + e[1][3]) / 2 - 0.5])

        near = [
            e
            for e in free
            if np.linalg.norm((centre(e) - centre(seed)) * spacing[:2]) <= merge_mm and abs(e[0] - seed[0]) <= reach
        ]

        def reached(boxes, first=seed[0]):
            slices = {first}
            while True:
                grown = slices | {e[0] for e in boxes if any(abs(e[0] - k) <= max_gap for k in slices)}
                if grown == slices:
                    return slices
                slices = grown

        slices = reached(near)
        members = [e for e in near if e[0] in slices]
        column = [e for e in entries if np.linalg.norm((centre(e) - centre(seed)) * spacing[:2]) <= merge_mm / 4]
        best = {k: max(e[2] for e in column if e[0] == k) for k in reached(column)}
        on = range(seed[0], 9), range(seed[0], -1, -1)
        lesion = set()
        for way in on:
            there = [k for k in way if k in best]
            for n, k in enumerate(there):
                least = min([best[j] for j in there[:n]] + [best[seed[0]]])
                if best[k] > least and (abs(k - seed[0]) > reach + max_gap or least < best[k] / 4):
                    break
                lesion.add(k)
        column = [e for e in column if e[0] in lesion]
        whole = [e for e in free if any(e is m for m in [*members, *column])]
        free = [e for e in free if all(e is not m for m in whole)]
        weights = np.array([e[2] for e in whole])
        position = np.average([[*centre(e), e[0]] for e in whole], axis=0, weights=weights)
        result.append([*position, seed[2], len(slices)])
    return np.array(result)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.sampled_from([0.7, 1.0, 2.5]))
def test_the_rule_box_by_box(seed, max_gap, thickness):
    generator = np.random.default_rng(seed)
    number = 40
    scores = generator.permutation(np.linspace(0.1, 0.9, number))
    places = generator.uniform(0, 25, (number, 2))
    slices = generator.integers(0, 8, number)
    entries = [(int(k), box(*p), float(np.float32(s))) for k, p, s in zip(slices, places, scores, strict=True)]
    spacing = (0.5, 0.6, thickness)
    candidates = merged(stack(8, *entries), spacing, 3.0, max_gap)
    expected = slow_merge(entries, np.array(spacing), 3.0, max_gap)
    np.testing.assert_allclose(candidates[:, [0, 1, 2, 4, 5]], expected, atol=1e-4)


def test_errors():
    with pytest.raises(ValueError, match="Slice 1 has 2 boxes but 1 scores"):
        merged([*stack(1), (torch.zeros(2, 4), torch.zeros(1))], SPACING)
    with pytest.raises(ValueError, match="max_gap 1 or more"):
        merged(stack(1), SPACING, max_gap=0)
    with pytest.raises(ValueError, match="score_slices is 0; expected 1 or more"):
        merged(stack(1), SPACING, score_slices=0)
    with pytest.raises(ValueError, match="merge_mm must be positive"):
        merged(stack(1), SPACING, merge_mm=0)
    with pytest.raises(ValueError, match=r"missing_slice_score is 0; expected a number above 0 and below 0\.5"):
        merged(stack(1), SPACING, missing_slice_score=0)
