"""How many microbleeds a scan has, where, and what pattern that makes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from .mars import CATEGORIES, CATEGORY, REGIONS
from .region_map import SIDE_NAMES

BANDS = ((0, "none"), (1, "1"), (4, "2-4"), (10, "5-10"))
MORE = "more than 10"
STATEMENT = "These are a program's counts, which no reader has checked, and no diagnosis."
NOT_TOLD = "cannot be told"


def band(number: int) -> str:
    """
    The class of a number of microbleeds, as studies of risk use them.

    Example:
        >>> [band(number) for number in (0, 1, 2, 4, 5, 10, 11)]
        ['none', '1', '2-4', '2-4', '5-10', '5-10', 'more than 10']
    """
    return next((name for most, name in BANDS if number <= most), MORE)


def pattern(regions: Sequence[str | None]) -> str:
    """
    The pattern of a scan's microbleeds.

    Those of the cerebellum count as neither lobar nor deep, as in the Boston criteria 2.0 (Charidimou et al., Lancet
    Neurol 2022;21:714); those of the brainstem count as infratentorial.

    Args:
        regions: of the microbleeds; None where one lies in no region.

    Example:
        >>> pattern(["frontal", "cerebellum"]), pattern(["thalamus", "brainstem"]), pattern(["frontal", "thalamus"])
        ('strictly lobar', 'strictly deep or infratentorial', 'mixed')
        >>> pattern([]), pattern(["cerebellum"]), pattern(["frontal", None])
        ('none', 'cerebellum only', 'cannot be told')
    """
    lobar = any(CATEGORY.get(region) == "lobar" for region in regions)
    deep = any(CATEGORY.get(region) == "deep" or region == "brainstem" for region in regions)
    if lobar and deep:
        return "mixed"
    if None in regions:
        return NOT_TOLD
    if lobar or deep:
        return "strictly lobar" if lobar else "strictly deep or infratentorial"
    return "cerebellum only" if regions else "none"


def possible_patterns(microbleeds: Sequence[Mapping]) -> set[str]:
    """The patterns that there could be, with each microbleed in its region or in a neighbouring one within 2 mm."""
    kinds = {"lobar": "frontal", "deep": "thalamus", "cerebellum": "cerebellum", "none": None}
    numbers = Counter(tuple(sorted({_kind(r) for r in (m["region"], *m["neighbours"])})) for m in microbleeds)
    # several microbleeds with the same choice may choose differently, as far as there are several
    choices = [
        [part for n in range(1, min(len(group), number) + 1) for part in itertools.combinations(group, n)]
        for group, number in numbers.items()
    ]
    return {pattern([kinds[kind] for part in parts for kind in part]) for parts in itertools.product(*choices)}


def _kind(region: str | None) -> str:
    if region is None:
        return "none"
    if region == "cerebellum":
        return region
    return "lobar" if CATEGORY[region] == "lobar" else "deep"


def summarise(microbleeds: Sequence[Mapping]) -> dict:
    """
    Summarise a scan's microbleeds.

    Args:
        microbleeds: as in ``result["microbleeds"]``; with ``region``, ``side`` and ``neighbours`` where regions were
            asked for.

    Returns:
        ``microbleeds``, their number; ``band``; ``statement``; and, with regions: ``by_category``, ``cerebellum``,
        ``not_located``, ``by_region`` (only regions with any, each by side), ``pattern``, and ``pattern_could_be``,
        other patterns that there would be if microbleeds within 2 mm of another region lay there.

    Example:
        >>> bleeds = [{"region": "frontal", "side": "left", "neighbours": []}] * 2
        >>> found = summarise(bleeds)
        >>> found["band"], found["by_region"], found["pattern"], found["pattern_could_be"]
        ('2-4', {'frontal': {'left': 2}}, 'strictly lobar', [])
    """
    found: dict = {"microbleeds": len(microbleeds), "band": band(len(microbleeds))}
    if all("region" in microbleed for microbleed in microbleeds):
        regions = [microbleed["region"] for microbleed in microbleeds]
        number = Counter((m["region"], m["side"]) for m in microbleeds)
        likely = pattern(regions)
        found |= {
            "by_category": {c: sum(CATEGORY.get(region) == c for region in regions) for c in CATEGORIES},
            "cerebellum": regions.count("cerebellum"),
            "not_located": regions.count(None),
            "by_region": {
                region: {side: number[region, side] for side in SIDE_NAMES.values() if number[region, side]}
                for region in REGIONS
                if region in regions
            },
            "pattern": likely,
            "pattern_could_be": sorted(possible_patterns(microbleeds) - {likely}),
        }
    return found | {"statement": STATEMENT}


def summary_row(subject: str, result: Mapping) -> dict:
    """
    A scan's row of the table over a cohort.

    Args:
        subject: identifier.
        result: the scan's JSON, with ``summary``; and ``regions`` where regions were asked for.

    Returns:
        the columns of ``regions.csv``: counts of all regions and sides, 0 where there is none.
    """
    summary, regions = result["summary"], result.get("regions", {})
    row = {"subject": subject, "microbleeds": summary["microbleeds"], "band": summary["band"]}
    row["pattern"] = summary.get("pattern")
    row["pattern_could_be"] = "; ".join(summary.get("pattern_could_be", ()))
    row |= {category: summary["by_category"][category] for category in CATEGORIES}
    row |= {"cerebellum": summary["cerebellum"], "not_located": summary["not_located"]}
    for region, side in itertools.product(REGIONS, SIDE_NAMES.values()):
        row[f"{region}, {side}"] = summary["by_region"].get(region, {}).get(side, 0)
    row |= {"source": regions.get("source"), "similarity": regions.get("similarity")}
    row["warnings"] = result.get("warnings", "")
    row["statement"] = summary["statement"]
    return row
