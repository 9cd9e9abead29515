"""The status of a lesion in each scan, from known scans."""

import numpy as np
import pytest

from cmb_bundle.scripts.follow_up import Coverage, Protocol, Sighting, counts, joint_probability, judge, track
from cmb_bundle.scripts.follow_up.lesions import View

SWI = Protocol("swi + phase", (0.8, 0.8, 2.0), 3.0, 20.0)
T2STAR = Protocol("t2star", (0.9, 0.9, 5.0), 3.0, 25.0)
PLACE = (30.0, 30.0, 15.0)


def view(protocol=SWI, dark=(), depth=0.8, height=30):
    image = np.full((60, 60, height), 100.0)
    for place in dark:
        x, y, z = map(int, place)
        image[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] *= 1 - depth
    return View(protocol, Coverage(np.eye(4), np.ones(image.shape, bool)), image, np.eye(4))


def seen(place=PLACE, probability=0.9, found=True, diameter=3.0):
    return Sighting(place, place, probability, found, int(found), diameter)


def judged(scans, views, threshold=0.3):
    return judge(track(scans), views, threshold, 0.64, 0.5, weight=0.65)


def status(scans, views):
    (one,) = judged(scans, views)
    return one.status


HERE, THERE = [PLACE], []


@pytest.mark.parametrize(
    ("scans", "dark", "expected"),
    [
        ([[seen()], [seen()]], (HERE, HERE), "stable"),
        ([[], [seen()]], (THERE, HERE), "new"),
        ([[seen()], []], (HERE, THERE), "gone"),
        ([[seen(probability=0.1, found=False)], [seen()]], (HERE, HERE), "below the threshold then"),
        ([[seen()], [seen(probability=0.1, found=False)]], (HERE, HERE), "below the threshold now"),
        # no candidate, but the image is as dark there: it was missed
        ([[], [seen()]], (HERE, HERE), "below the threshold then"),
        ([[seen()], []], (HERE, HERE), "below the threshold now"),
    ],
)
def test_status_of_a_lesion_in_two_like_scans(scans, dark, expected):
    assert status(scans, [view(dark=one) for one in dark]) == expected


def test_a_faint_shade_then_is_not_the_lesion():
    assert status([[], [seen()]], [view(dark=HERE, depth=0.2), view(dark=HERE)]) == "new"


def test_what_lies_outside_of_the_first_scan_cannot_be_told():
    (one,) = judged([[], [seen()]], [view(height=10), view(dark=HERE)])
    assert (one.status, one.reasons[1]) == ("cannot be told", "outside of the field of view")
    outside = view()
    outside.coverage.head[:, :, 12:18] = False
    assert judged([[], [seen()]], [outside, view(dark=HERE)])[0].reasons[1] == "outside of the head"


def test_a_more_sensitive_scan_makes_no_new_lesion():
    (one,) = judged([[], [seen()]], [view(T2STAR), view(SWI, HERE)])
    assert one.status == "cannot be told"
    assert one.reasons[1].startswith("then T2*-weighted magnitude, not SWI")
    # what the more sensitive scan did not show was not there
    assert status([[], [seen()]], [view(SWI), view(T2STAR, HERE)]) == "new"
    # and what the less sensitive one does not show may still be there
    assert status([[seen()], []], [view(SWI, HERE), view(T2STAR)]) == "cannot be told"


def test_a_large_lesion_would_have_been_seen_at_the_lower_field():
    low = Protocol("swi", (0.8, 0.8, 2.0), 1.5, 20.0)
    assert status([[], [seen(diameter=5.0)]], [view(low), view(SWI, HERE)]) == "new"
    assert status([[], [seen(diameter=3.2)]], [view(low), view(SWI, HERE)]) == "cannot be told"


def test_what_is_weak_in_both_scans_counts_where_both_together_are_sure():
    weak = [[seen(probability=0.6, found=False)], [seen(probability=0.6, found=False)]]
    assert joint_probability([0.6, 0.6], 0.65) == pytest.approx(0.629, abs=1e-3)
    views = [view(dark=HERE)] * 2
    (one,) = judged(weak, views, threshold=0.62)
    assert (one.status, one.states, one.first_found) == ("stable", ("below the threshold",) * 2, None)
    assert judged(weak, views, threshold=0.64) == []
    assert judged([weak[0], []], views, threshold=0.5) == []


def test_three_scans_have_a_status_each():
    views = [view(), view(dark=HERE), view()]
    (one,) = judged([[], [seen()], []], views)
    assert one.states == ("not found", "found", "not found")
    assert one.statuses == ("", "new", "not there")
    assert one.first_found == 1


def test_counts_of_new_ones_by_certainty():
    scans = [[], [seen((10.0 * n, 30.0, 15.0), 0.9 if n < 4 else 0.4) for n in range(1, 6)]]
    lesions = judged(scans, [view(), view(dark=[(10 * n, 30, 15) for n in range(1, 6)])])
    found = counts(lesions, 1)
    assert found["new"] == {"certain": 3, "possible": 2, "all": 5, "band_certain": "1-4", "band_all": "5-9"}
    assert found["stable"] == found["gone"] == 0
    assert [one.number for one in lesions] == [1, 2, 3, 4, 5]


def test_scans_of_one_patient_say_the_same_so_that_two_are_less_than_twice_as_sure():
    once, twice = joint_probability([0.6], 0.65), joint_probability([0.6, 0.6], 0.65)
    independent = joint_probability([0.6, 0.6], 1.0)
    assert once < twice < independent
    assert joint_probability([0.02, 0.02], 0.65) < 0.02
