"""Tables of scores: every form that is known, and one clear sentence for each fault."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aced.errors import AcedError
from aced.evaluate.stability.stable_tasks import select_stable
from aced.evaluate.stability.tables import Layout, layout_of, read_scores

WIDE = """name,pretrained,params (M),shape,colour
B-32,e31,151.3,0.30,0.50
B-32,e32,151.3,0.32,0.48
L-14,e31,427.6,0.40,0.61
L-14,openai,427.6,0.45,0.66
"""
NO_PARAMS = Layout(ignore=["params*"])


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def row(title: str, seed: int, run: str = "runs/x", **tasks: Any) -> dict[str, Any]:
    scores = {
        name: value if isinstance(value, dict) else {"value": value, "chance": 0.1, "n": 600, "metric": "acc1"}
        for name, value in tasks.items()
    }
    return {"method": title.lower(), "title": title, "seed": seed, "run": run, "tasks": scores}


# --- forms ----------------------------------------------------------------------------------------------------------


def test_results_of_a_demo(tmp_path: Path) -> None:
    rows = [
        row("IID", 0, shape=0.3, size=0.4),
        row("IID", 1, shape=0.35, size=0.42),
        row("ACED", 0, shape=0.5, size=0.6),
    ]
    written(tmp_path, "results.json", {"rows": rows})
    scores = read_scores([tmp_path])
    assert scores.tasks == ["shape", "size"]
    assert scores.recipes == ["IID", "IID", "ACED"]
    assert scores.values.tolist() == [[0.3, 0.4], [0.35, 0.42], [0.5, 0.6]]
    assert scores.n.tolist() == [600, 600]
    assert scores.chance.tolist() == [0.1, 0.1]
    assert not scores.ranked_only.any()


def test_run_folders_are_repeats_if_only_their_run_sections_differ(tmp_path: Path) -> None:
    for folder, seed, lr in (("a", 0, 0.1), ("b", 1, 0.1), ("c", 2, 0.2)):
        written(tmp_path, f"{folder}/results.json", {"rows": [row("IID", seed, ".", shape=0.3)]})
        written(tmp_path, f"{folder}/config.toml", f"[run]\nseed = {seed}\nout = '{folder}'\n[train]\nlr = {lr}\n")
    scores = read_scores([tmp_path / name for name in "abc"])
    assert scores.recipes == ["IID (a)", "IID (a)", "IID (c)"]
    assert read_scores([tmp_path / name for name in "ab"]).recipes == ["IID", "IID"]


def test_a_wide_table_by_pattern_by_column_and_by_seed(tmp_path: Path) -> None:
    file = written(tmp_path, "t.csv", WIDE)
    by_pattern = read_scores([file], layout=Layout(repeat_pattern="e3[12]$", ignore=["params*"]))
    assert by_pattern.tasks == ["shape", "colour"]
    assert by_pattern.recipes == ["B-32", "B-32", "L-14", "L-14 openai"]
    by_column = read_scores([file], layout=Layout(recipe_columns=["name"], ignore=["params*"]))
    assert by_column.recipes == ["B-32", "B-32", "L-14", "L-14"]
    by_two = read_scores([file], layout=Layout(recipe_columns=["name", "params (M)"]))
    assert by_two.recipes[0] == "B-32 151.3"
    assert by_two.tasks == ["shape", "colour"]
    assert np.isnan(by_pattern.n).all()
    assert np.isnan(by_pattern.chance).all()
    seeds = written(tmp_path, "s.tsv", "method\tseed\tshape\nx\t0\t0.5\nx\t1\t0.6\ny\t0\t0.5\n")
    assert read_scores([seeds]).recipes == ["x", "x", "y"]


def test_a_table_of_nothing_but_seeds_and_tasks_is_one_recipe(tmp_path: Path) -> None:
    for name, text in (("a.csv", "shape,size\n0.5,0.6\n0.6,0.7\n"), ("b.csv", "seed,shape\n1,0.5\n2,0.4\n")):
        assert len(set(read_scores([written(tmp_path, name, text)]).recipes)) == 1
    long = "seed,task,value\n1,shape,0.5\n2,shape,0.4\n"
    assert len(set(read_scores([written(tmp_path, "c.csv", long)]).recipes)) == 1


def test_a_long_table_with_percent_n_and_chance(tmp_path: Path) -> None:
    lines = [
        f"IID,{seed},{task},{value},600,0.1" for seed in (0, 1) for task, value in (("shape", 30), ("size", 40 + seed))
    ]
    file = written(tmp_path, "t.csv", "\n".join(["recipe,seed,task,value,n,chance", *lines]))
    scores = read_scores([file], layout=Layout(percent=True))
    assert scores.recipes == ["IID", "IID"]
    assert scores.values.tolist() == [[0.3, 0.4], [0.3, 0.41]]
    assert scores.n.tolist() == [600, 600]


def test_datacomps_lines_with_a_folder_for_each_model(tmp_path: Path) -> None:
    files = []
    for seed in (0, 1):
        lines = [
            {"key": "vtab/x", "dataset": "X", "metrics": {"acc1": 0.4, "main_metric": 0.5 + seed / 100}},
            {"key": "y", "dataset": "Y", "n": 500, "chance": 0.2, "metrics": {"main_metric": 0.6}},
        ]
        text = "\n".join(map(json.dumps, lines)) + "\n"
        files.append(written(tmp_path, f"base-s{seed}/eval_results.jsonl", text))
    scores = read_scores(files, layout=Layout(repeat_pattern=r"-s\d+$"))
    assert scores.recipes == ["base", "base"]
    assert scores.tasks == ["X", "Y"]
    assert scores.values.tolist() == [[0.5, 0.6], [0.51, 0.6]]
    assert math.isnan(scores.n[0])
    assert scores.n[1] == 500


def test_an_evaluation_of_aced_eval(tmp_path: Path) -> None:
    for seed in (0, 1):
        record = {"value": 0.5, "chance": 0.1, "n": 500, "metric": "acc1", "stderr": 0.02 + seed / 100}
        content = {"format": 1, "model": "m", "fingerprint": "f", "tasks": {"X": record}}
        written(tmp_path, f"base-s{seed}/eval.json", content)
    folders = [tmp_path / f"base-s{seed}" for seed in (0, 1)]
    scores = read_scores(folders, layout=Layout(repeat_pattern=r"-s\d+$"))
    assert scores.recipes == ["base", "base"]
    assert scores.errors.tolist() == [[0.02], [0.03]]
    assert select_stable(scores).tasks[0].sampling == pytest.approx(0.025)


def test_facts_fill_what_the_table_does_not_say(tmp_path: Path) -> None:
    file = written(tmp_path, "t.csv", WIDE)
    for facts in (
        written(tmp_path, "f.csv", "task,n,chance\nshape,600,0.125\ncolour,,0.1\nother,7,0.5\n"),
        written(tmp_path, "f.json", {"shape": {"n": 600, "chance": 0.125}, "colour": {"chance": 0.1, "n": None}}),
        written(
            tmp_path,
            "l.json",
            {"tasks": {"a/b": {"name": "shape", "size": 600, "chance": 0.125}, "colour": {"chance": 0.1}}},
        ),
    ):
        scores = read_scores([file], facts=facts, layout=NO_PARAMS)
        assert scores.n[0] == 600
        assert math.isnan(scores.n[1])
        assert scores.chance.tolist() == [0.125, 0.1]


def test_ranked_rows_are_models_of_their_own(tmp_path: Path) -> None:
    first = written(tmp_path, "a.json", {"rows": [row("IID", s, shape=0.3 + s / 100) for s in (0, 1)]})
    second = written(tmp_path, "b.json", {"rows": [row("IID", 0, shape=0.5), row("ACED", 0, shape=0.6)]})
    scores = read_scores([first], ranked=[second])
    assert scores.ranked_only.tolist() == [False, False, True, True]
    assert scores.recipes == ["IID", "IID", "IID (ranked)", "ACED (ranked)"]
    assert select_stable(scores).models == 2


# --- faults ---------------------------------------------------------------------------------------------------------


def refused(*paths: Path, match: str, **more: Any) -> None:
    with pytest.raises(AcedError, match=match) as fault:
        read_scores(list(paths), **more)
    assert "\n" not in str(fault.value)


HOLE = WIDE.replace("0.32,", ",").replace("0.61", "nan")


def test_missing_cells_are_told_with_what_to_do(tmp_path: Path) -> None:
    file = written(tmp_path, "t.csv", HOLE)
    sentence = r"t\.csv .*task 'shape'.*'B-32 e32'.*1 more .*--missing tasks.*--missing rows"
    refused(file, match=sentence, layout=NO_PARAMS)
    rows = read_scores([file], layout=Layout(ignore=["params*"], missing="rows"))
    assert rows.values.tolist() == [[0.3, 0.5], [0.45, 0.66]]
    assert len(rows.recipes) == len(rows.ranked_only) == 2
    one = written(tmp_path, "one.csv", WIDE.replace("0.61", ""))
    assert read_scores([one], layout=Layout(ignore=["params*"], missing="tasks")).tasks == ["shape"]
    refused(file, match="--missing tasks", layout=Layout(ignore=["params*"], missing="tasks"))


def test_runs_that_were_scored_on_other_tasks_have_missing_cells(tmp_path: Path) -> None:
    rows = [
        row("IID", 0, shape=0.3, size=0.4),
        row("IID", 1, shape=0.35),
        row("IID", 2, shape={"value": None}, size=0.1),
    ]
    file = written(tmp_path, "r.json", {"rows": rows})
    refused(file, match=r"task 'size'.*'IID seed 1'.*1 more")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (WIDE.replace("0.32", "0.3x"), "line 3, column 'shape'.*'0.3x'"),
        (WIDE.replace("0.32", "32"), r"32 .*'B-32 e32'.*task 'shape'.*--percent.*--ignore 'shape'"),
        (WIDE.replace("0.32", "-0.1"), r"-0\.1.* 0 .* 1"),
        (WIDE.replace("0.32", "inf"), "number"),
        (WIDE.replace("0.32,0.48", "0.32"), "line 3.*5"),
        (WIDE.replace("0.32,0.48", "0.32,0.48,1"), "line 3.*5"),
        (WIDE.replace("colour", "shape"), "columns 'shape'"),
        (WIDE.replace("colour", "Average perf. on 38"), "--ignore 'Average perf. on 38'"),
        ("", r"t\.csv .*header"),
        ("a,b\n", r"t\.csv .*rows"),
        ("name,kind\nx,y\n", "scores"),
        ("recipe,task,value\nx,shape,0.5\nx,shape,0.6\n", "line 3.*'x'.*task 'shape'"),
        ("recipe,task,value,n\nx,shape,0.5,0\n", "n of .* 0"),
        ("recipe,task,value,chance\nx,shape,0.5,5\n", r"t\.csv line 2.* 5"),
    ],
)
def test_faulty_csv(content: str, match: str, tmp_path: Path) -> None:
    refused(written(tmp_path, "t.csv", content), match=match, layout=NO_PARAMS)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", r"r\.json .*JSON"),
        ("[1]", "'rows'"),
        ({"tasks": []}, "'rows'"),
        ({"rows": []}, r"r\.json .*rows"),
        ({"rows": [{"method": "iid"}]}, "'tasks'"),
        ({"rows": [row("IID", 0, shape={"value": "x"})]}, "task 'shape'.*'x'"),
        ({"rows": [row("IID", 0, shape={"value": True})]}, " True "),
        (
            {"rows": [row("IID", 0, shape=0.1), row("IID", 0, shape=0.2)]},
            "Seed 0.*'IID'",
        ),
    ],
)
def test_faulty_json(content: Any, match: str, tmp_path: Path) -> None:
    refused(written(tmp_path, "r.json", content), match=match)


def test_other_faults(tmp_path: Path) -> None:
    file = written(tmp_path, "t.csv", WIDE)
    refused(tmp_path / "none.csv", match="none.csv")
    refused(tmp_path / "none.csv", file, tmp_path / "nor.csv", match=r"none\.csv.*nor\.csv")
    refused(tmp_path, match="results.json")
    refused(written(tmp_path, "t.txt", WIDE), match="table")
    refused(file, match="column 'recipe'.*--recipe-column", layout=Layout(recipe_columns=["recipe"]))
    refused(file, match="regular expression", layout=Layout(repeat_pattern="("))
    refused(
        file,
        match="row.*'B-32 e31'",
        layout=Layout(repeat_pattern="seed", ignore=["p*)"]),
    )
    refused(file, match="--ignore", layout=Layout(ignore=["*"]))
    refused(
        file,
        match="tasks.*'shape'",
        facts=written(tmp_path, "g.json", {"forms": {}}),
        layout=NO_PARAMS,
    )
    refused(file, match="task.*n.*chance", facts=written(tmp_path, "g.csv", "a,b\n1,2\n"), layout=NO_PARAMS)
    refused(file, match="tasks", facts=written(tmp_path, "h.json", [1]), layout=NO_PARAMS)
    refused(written(tmp_path, "x/eval_results.jsonl", '{"key": 1}\n'), match="line 1.*'dataset'")
    (tmp_path / "latin.csv").write_bytes(b"n\xe4me,shape\nx,0.5\n")
    refused(tmp_path / "latin.csv", match="UTF-8")
    different = [row("IID", 0, shape=0.3), row("IID", 1, shape={"value": 0.3, "chance": 0.1, "n": 300})]
    refused(written(tmp_path, "d.json", {"rows": different}), match="'shape'.*n = 300 .*600")


def test_the_layout_of_a_command_line() -> None:
    assert layout_of(["a"], "", ["b"], percent=True, missing="rows") == Layout(["a"], "", ["b"], True, "rows")
    with pytest.raises(AcedError, match=r"--missing.*'zero'"):
        layout_of([], "", [], percent=False, missing="zero")
    with pytest.raises(AcedError, match=r"--recipe-column.*--repeat-pattern"):
        layout_of(["a"], "b", [], percent=False, missing="stop")
