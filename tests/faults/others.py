"""Broken labels, datalists, weights, options and commands; each run of them is judged as a whole."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .judge import Outcome, findings_of, problem_of_line, read_table, run_workflow, same_findings
from .scans import Scan, changed

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "cmb_bundle" / "models" / "model.pt"


def rows_of(cohort: Path, subject: str) -> list[tuple[int, int, int]]:
    """The points of an intact label."""
    import pandas as pd

    table = pd.read_excel(cohort / "Label" / f"{subject}.xlsx", header=None)
    table = table[pd.to_numeric(table[0], errors="coerce").notna()]
    return [tuple(int(value) for value in row[:3]) for row in table.to_numpy()]


def broken_excel(whole: bytes, seed: int = 21) -> Iterator[tuple[str, str, bytes]]:
    """Name, ending and content of an Excel file that is damaged."""
    random = np.random.default_rng(seed)
    for share in random.uniform(0, 1, 8):
        yield f"cut off after {share:.1%}", "xlsx", whole[: int(len(whole) * share)]
    for place in random.integers(0, len(whole), 24):
        yield f"byte {place} changed", "xlsx", changed(whole, int(place), 255)
    parts = zipfile.ZipFile(io.BytesIO(whole))
    for lost in parts.namelist():
        yield f"without {lost}", "xlsx", _zip({n: parts.read(n) for n in parts.namelist() if n != lost})
        yield f"{lost} empty", "xlsx", _zip({n: parts.read(n) if n != lost else b"" for n in parts.namelist()})
    sheet = next(n for n in parts.namelist() if "sheet1" in n)
    content = {n: parts.read(n) for n in parts.namelist()}
    text = content[sheet]
    for name, new in {
        "a formula": re.sub(rb"<v>(\d+)</v>", rb"<f>1/0</f><v>#DIV/0!</v>", text, count=1),
        "a value of text": re.sub(rb"<v>(\d+)</v>", rb"<v>text</v>", text, count=1),
        "a value of 1e400": re.sub(rb"<v>(\d+)</v>", rb"<v>1e400</v>", text, count=1),
        "a negative value": re.sub(rb"<v>(\d+)</v>", rb"<v>-5</v>", text, count=1),
        "a value outside": re.sub(rb"<v>(\d+)</v>", rb"<v>5000</v>", text, count=1),
        "a value gone": re.sub(rb"<v>(\d+)</v>", rb"<v></v>", text, count=1),
        "a row far below": text.replace(b'r="2"', b'r="1048570"').replace(b"A2", b"A1048570"),
        "not closed": text[: len(text) // 2],
        "an entity that grows": b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
        + b"".join(b'<!ENTITY a%d "%s">' % (n, (b"&a%d;" % (n - 1) if n > 1 else b"&a;") * 10) for n in range(1, 10))
        + b"]><worksheet>&a9;</worksheet>",
    }.items():
        yield name, "xlsx", _zip({**content, sheet: new})
    yield "empty", "xlsx", b""
    yield "a page", "xlsx", b"<html>404</html>"
    yield "another zip", "xlsx", _zip({"a.txt": b"text"})
    yield "named .xls", "xls", whole


def _zip(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    return stream.getvalue()


def broken_csv(rows: list[tuple[int, int, int]], seed: int = 22) -> Iterator[tuple[str, str, bytes]]:
    """Name, ending and content of a table that is damaged."""
    random = np.random.default_rng(seed)
    whole = "slice,x,y\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    for how, text in {
        "empty": "",
        "header alone": "slice,x,y\n",
        "no header": whole.split("\n", 1)[1],
        "spaces": " \n \n",
        "a column gone": re.sub(r",\d+$", "", whole, flags=re.M),
        "a quotation mark": whole.replace("x", '"x'),
        "not a number": whole.replace(",", ",?", 3),
        "NaN": whole.replace(f"{rows[0][0]},", "nan,", 1),
        "infinite": whole.replace(f"{rows[0][0]},", "inf,", 1),
        "negative": whole.replace("\n", "\n-", 1),
        "outside": whole.replace("\n", "\n9", 1),
        "a row cut off": whole[:-3],
        "a fraction of a slice": whole.replace(",", ".5,", 4),
        "one letter": "a",
        "binary": "\0\1\2\3" * 50,
        "a long line": "1," * 200_000,
        "many rows": whole * 3000,
        "two headers": whole + whole,
        "twice": whole + whole.split("\n", 1)[1],
        "columns named otherwise": whole.replace("slice", "lesion"),
        "dates": whole.replace(f"{rows[0][1]}", "3-May", 1),
        "thousands": whole.replace(f"{rows[0][1]}", "1'050", 1),
        "a cell of 200 000 letters": whole.replace("x", "x" * 200_000),
        "JSON": json.dumps(rows),
        "a page": "<html>404</html>",
    }.items():
        yield how, "csv", text.encode()
    for place in random.integers(0, len(whole), 12):
        yield f"byte {place} changed", "csv", changed(whole.encode(), int(place), 255)
    yield "UTF-16 without its mark", "csv", whole.encode("utf-16-le")
    yield "UTF-16 cut off", "csv", whole.encode("utf-16")[:-1]
    yield "named .tsv", "tsv", whole.encode()


def of_labels(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """An evaluation of as many copies of the scan as there are broken labels; a label is never ignored."""
    scan, rows = Scan.of(cohort, "phantom-001"), rows_of(cohort, "phantom-001")
    whole = (cohort / "Label" / "phantom-001.xlsx").read_bytes()
    faults = [("Excel", *one) for one in broken_excel(whole)] + [("CSV", *one) for one in broken_csv(rows)]
    faults = faults[::every]
    scans, output_dir = folder / "scans", folder / "results"
    for name in ("Data/SWI", "Label"):
        (scans / name).mkdir(parents=True)
    names = [f"n{number:04d}" for number in range(len(faults))]
    (scans / "Label" / "intact.xlsx").write_bytes(whole)
    for name in (*names, "intact"):
        (scans / "Data" / "SWI" / f"{name}.nii").write_bytes(scan.swi)
    for name, (_, _, ending, content) in zip(names, faults, strict=True):
        (scans / "Label" / f"{name}.{ending}").write_bytes(content)
    error = run_workflow(
        ["inference.json", "evaluate.json"],
        dataset_dir=str(scans),
        output_dir=str(output_dir),
        picture=False,
        subset="all",
        bootstrap=20,
        compare_with_baseline=False,
    )
    failures = {name: row["reason"] for name, row in read_table(output_dir / "failures.csv").items()}
    scored = read_table(output_dir / "per_subject.csv")
    if type(error).__name__ != ("CohortError" if failures else "NoneType"):
        raise RuntimeError(f"The run ended with {error!r}") from error
    outcomes = []
    for name, (kind, how, _, _) in zip(names, faults, strict=True):
        if name in failures:
            outcomes.append(Outcome(kind, how, "refused", failures[name], problem_of_line(failures[name])))
        elif name in scored:
            counts = {
                key: value for key, value in scored[name].items() if key in ("microbleeds", "n_lesions", "lesions")
            }
            wanted = {key: scored["intact"][key] for key in counts}
            assert counts, f"per_subject.csv has {list(scored[name])}"
            outcomes.append(Outcome(kind, how, "same" if counts == wanted else "differs", str(counts)))
        else:
            outcomes.append(Outcome(kind, how, "lost", "", "neither scored nor a failure"))
    return outcomes


def _judge_run(
    kind: str, name: str, error: BaseException | None, output_dir: Path, wanted: dict, free: bool
) -> Outcome:
    """Judge a run over one intact scan, whose input is not the scan."""
    failures = {subject: row["reason"] for subject, row in read_table(output_dir / "failures.csv").items()}
    if error is not None:
        lines = list(failures.values()) or [f"{type(error).__name__}: {error}"]
        problem = next((p for p in map(problem_of_line, lines) if p), "")
        return Outcome(kind, name, "refused", " | ".join(lines), problem)
    done = [subject for subject in read_table(output_dir / "subjects.csv") if subject not in failures]
    if not done:
        return Outcome(kind, name, "lost", "", "it ended well without a result")
    found = [findings_of(output_dir, subject) for subject in done]
    if len(done) == 1 and same_findings(found[0]["microbleeds"], wanted["microbleeds"]):
        return Outcome(kind, name, "same")
    counts = f"{[len(one['microbleeds']) for one in found]} microbleeds"
    return Outcome(kind, name, "differs", counts, "" if free else f"{counts}, without a warning")


def _runs(
    kind: str,
    cases: list[tuple[str, Callable[[Path, Path], dict]]],
    cohort: Path,
    folder: Path,
    every: int,
    free: bool = False,
) -> list[Outcome]:
    """A run for each case, which gets the intact scan and a folder, and returns options."""
    scan = folder / "intact_swi.nii"
    scan.write_bytes(Scan.of(cohort, "phantom-001").swi)
    plain = {"dataset_dir": str(scan), "picture": False, "output_dir": str(folder / "wanted")}
    assert run_workflow(["inference.json"], **plain) is None
    wanted, outcomes = findings_of(folder / "wanted", "intact"), []
    for name, case in cases[::every]:
        here = folder / "one"
        here.mkdir()
        options = {**plain, "output_dir": str(here / "results"), **case(scan, here)}
        error = run_workflow(["inference.json"], **options)
        outcomes.append(_judge_run(kind, name, error, here / "results", wanted, free))
        shutil.rmtree(here)
    return outcomes


def of_datalists(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    def case(text: bytes, scan: Path, here: Path) -> dict:
        path = here / "list.json"
        path.write_bytes(text.replace(b"SCAN", str(scan).encode()))
        return {"dataset_dir": str(path)}

    one = {"subject": "intact", "image": "SCAN"}
    whole = json.dumps({"unlabelled": [one]}).encode()
    texts: dict[str, bytes] = {f"cut off after {n} bytes": whole[:n] for n in range(0, len(whole), 9)}
    random = np.random.default_rng(31)
    texts |= {
        f"byte {p} changed": changed(whole, int(p), 1 << int(random.integers(8))) for p in range(0, len(whole), 5)
    }
    contents: dict[str, object] = {
        "null": None,
        "a number": 3,
        "a text": "text",
        "an empty list": [],
        "an empty object": {},
        "a list of numbers": [1, 2],
        "a list of lists": [[one]],
        "other groups": {"scans": [one]},
        "training is a text": {"training": "text"},
        "training is an object": {"training": one},
        "the same subject twice": {"unlabelled": [one, one]},
        "without a subject": [{"image": "SCAN"}],
        "a subject that is null": [{**one, "subject": None}],
        "a subject that is a number": [{**one, "subject": 7}],
        "a subject that is a list": [{**one, "subject": ["a"]}],
        "a subject of dots": [{**one, "subject": ".."}],
        "a subject with a slash": [{**one, "subject": "../up"}],
        "a subject of 5000 letters": [{**one, "subject": "a" * 5000}],
        "an empty subject": [{**one, "subject": ""}],
        "an image that is null": [{"subject": "a", "image": None}],
        "an image that is a number": [{"subject": "a", "image": 5}],
        "an image that is a list": [{"subject": "a", "image": ["SCAN"]}],
        "an image that is an object": [{"subject": "a", "image": one}],
        "an image that is not there": [{"subject": "a", "image": "/nowhere/scan.nii"}],
        "an empty image": [{"subject": "a", "image": ""}],
        "an image that is a folder": [{"subject": "a", "image": "/etc"}],
        "an image with a null byte": [{"subject": "a", "image": "a\0b"}],
        "a phase that is the SWI": [{**one, "phase": "SCAN"}],
        "dicom that is a number": [{"subject": "a", "dicom": 5}],
        "dicom that is not there": [{"subject": "a", "dicom": "/nowhere"}],
        "a fold that is a text": {"training": [{**one, "label": "SCAN", "fold": "x"}]},
        "a dataset_dir that is a number": {"dataset_dir": 5, "unlabelled": [one]},
        "deep": json.loads("[" * 500 + "]" * 500),
    }
    texts |= {name: json.dumps(content).encode() for name, content in contents.items()}
    texts |= {"UTF-16": whole.decode().encode("utf-16"), "no text": bytes(range(256)), "very deep": b"[" * 100_000}
    return _runs("datalist", [(name, partial(case, text)) for name, text in texts.items()], cohort, folder, every)


def of_weights(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    whole = WEIGHTS.read_bytes()
    state = torch.load(WEIGHTS, weights_only=True)
    random = np.random.default_rng(41)

    def raw(content: bytes) -> Callable[[Path, Path], dict]:
        def case(scan: Path, here: Path) -> dict:
            (here / "w.pt").write_bytes(content)
            return {"checkpoint": str(here / "w.pt")}

        return case

    def saved(make: Callable[[], object]) -> Callable[[Path, Path], dict]:
        def case(scan: Path, here: Path) -> dict:
            torch.save(make(), here / "w.pt")
            return {"checkpoint": str(here / "w.pt")}

        return case

    cases = [(f"cut off after {s:.2%}", raw(whole[: int(len(whole) * s)])) for s in random.uniform(0, 1, 8)]
    cases += [(f"byte {p} changed", raw(changed(whole, int(p), 64))) for p in random.integers(0, len(whole), 30)]
    cases += [(f"byte -{n} changed", raw(changed(whole, len(whole) - n, 255))) for n in (1, 10, 20, 30, 100, 1000)]
    cases += [
        ("empty", raw(b"")),
        ("a page", raw(b"<html>404</html>")),
        ("a pickle", raw(b"cos\nsystem\n(S'true'\ntR.")),
    ]
    name = next(key for key, value in state.items() if value.ndim == 4)
    made: dict[str, Callable[[], object]] = {
        "a list": lambda: [1, 2],
        "a tensor": lambda: torch.zeros(3),
        "nothing": dict,
        "a number": lambda: 5,
        "a tensor gone": lambda: {k: v for k, v in state.items() if k != name},
        "a tensor more": lambda: {**state, "more": torch.zeros(1)},
        "another shape": lambda: {**state, name: state[name][:1]},
        "NaN": lambda: {**state, name: state[name] * torch.nan},
        "one value infinite": lambda: {**state, name: state[name].clone().index_fill_(0, torch.tensor([0]), torch.inf)},
        "a text in place of a tensor": lambda: {**state, name: "text"},
        "whole numbers": lambda: {k: v.long() for k, v in state.items()},
        "half precision": lambda: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
        "complex": lambda: {k: v.to(torch.complex64) if v.is_floating_point() else v for k, v in state.items()},
        "sparse": lambda: {k: v.to_sparse() for k, v in state.items()},
        "keys that are numbers": lambda: dict(enumerate(state.values())),
        "wrapped twice": lambda: {"model": {"state_dict": state}},
        "all 0": lambda: {k: torch.zeros_like(v) for k, v in state.items()},
        "enormous": lambda: {k: v * 1e30 if v.is_floating_point() else v for k, v in state.items()},
        "a negative variance": lambda: {k: -v - 1 if k.endswith("running_var") else v for k, v in state.items()},
    }
    cases += [(how, saved(make)) for how, make in made.items()]
    cases.append(("a folder", lambda scan, here: {"checkpoint": str(here)}))
    cases.append(("not there", lambda scan, here: {"checkpoint": str(here / "none.pt")}))
    return _runs("weights", cases, cohort, folder, every)


WRONG = ("abc", -1, 0, 10**30, float("nan"), [], {}, True)


def of_options(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """Each option of the page of inference, with values of other types; findings may differ."""
    page = (ROOT / "docs" / "find.md").read_text(encoding="utf-8").split("## Options", 1)[1]
    options = [
        name for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) if name not in ("output_dir", "dataset_dir")
    ]
    cases = []
    for option in options:
        for value in WRONG:
            if option == "num_workers" and value == 10**30:
                continue
            cases.append((f"{option} {value!r:.20}", lambda scan, here, o=option, v=value: {o: v}))
    outcomes = _runs("options", cases, cohort, folder, every, free=True)
    shutil.rmtree(folder / "wanted")
    return outcomes


def of_commands(cohort: Path, folder: Path, every: int) -> list[Outcome]:
    """Real commands: exit status, and last lines without a traceback."""
    scan = folder / "intact_swi.nii"
    scan.write_bytes(Scan.of(cohort, "phantom-001").swi)
    config = str(ROOT / "cmb_bundle" / "configs" / "inference.json")
    (folder / "broken.json").write_text("{")
    start = ["--config_file", config, "--dataset_dir", str(scan), "--output_dir", "results"]
    commands = {
        "no dataset_dir": ["--config_file", config],
        "a dataset_dir that is not there": ["--config_file", config, "--dataset_dir", "/nowhere"],
        "an option that does not exist": [*start, "--probability_treshold", "0.5"],
        "a threshold of 2": [*start, "--probability_threshold", "2"],
        "weights that are not there": [*start, "--checkpoint", "none.pt"],
        "an output_dir that is a file": [
            "--config_file",
            config,
            "--dataset_dir",
            str(scan),
            "--output_dir",
            str(scan),
        ],
        "a list that is not closed": [*start, "--subjects", "['a'"],
        "a subject that is not there": [*start, "--subjects", "['nobody']"],
        "training without labels": [
            "training",
            "--config_file",
            config.replace("inference", "train"),
            "--dataset_dir",
            str(folder),
        ],
    }
    outcomes = []
    for name, words in list(commands.items())[::every]:
        command = [sys.executable, "-m", "monai.bundle", "run", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        last = done.stderr.strip().split("\n\n")[-1]
        problem = "" if done.returncode == 1 else f"exit status {done.returncode}"
        if "Traceback" in done.stderr or "Error" in last.split(":")[0] or not last:
            problem = "a traceback, or no message"
        outcomes.append(Outcome("commands", name, "refused", " ".join(last.split()), problem))
    return outcomes
