"""Plans of experiments: what is trained and gone on with, what is compared, and what a wrong plan says."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from commands import SCRIPTS, Command
from tinydet_lite.errors import UserError
from tinydet_tf.config import save_config
from tinydet_tf.data.digits import digits_folder
from tinydet_tf.data.splits import absolute, named
from tinydet_tf.training.run import plans
from tinydet_tf.training.run.plans import Plan, load_plan, results, row_folder, run_plan, table

PLAN = """
config: recipe.yaml
set: [train.epochs=2]
seeds: [0, 1]
rows:
  baseline: []
  without alignment: [model.align=false]
"""


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text("variant: S\ntrain: {batch_size: 2}\n")
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def finish(plan: Plan, output: Path, row: str, seed: int, epochs: int, **metrics: float) -> None:
    folder = row_folder(output, row, seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = plan.configured(row, seed)
    (folder / "config.yaml").write_text(save_config(dataclasses.replace(config, data=absolute(named(config.data)))))
    history = [{"epoch": epoch + 1, **{f"val_{k}": v for k, v in metrics.items()}} for epoch in range(epochs)]
    (folder / "metrics.json").write_text(json.dumps({"history": history, "best": {}}))


def test_a_row_is_the_recipe_with_its_changes(plan_file: Path) -> None:
    plan = load_plan(plan_file)
    config = plan.configured("without alignment", 1)
    assert (config.model.align, config.train.seed, config.train.epochs, config.train.batch_size) == (False, 1, 2, 2)
    assert plan.configured("baseline", 0).model.align
    assert list(load_plan(plan_file, only=["baseline"]).rows) == ["baseline"]


def test_the_data_may_be_given_beside_the_plan(plan_file: Path) -> None:
    plan_file.write_text(PLAN.replace("train.epochs=2", "train.epochs=2, data.root=elsewhere"))
    assert load_plan(plan_file).configured("baseline", 0).data.root == "elsewhere"
    plan = load_plan(plan_file, data="my 'set'")
    assert {plan.configured(row, 0).data.root for row in plan.rows} == {"my 'set'"}


def test_finished_runs_stay_and_begun_ones_go_on(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, output, started = load_plan(plan_file), tmp_path / "runs", []

    def run(command: list[str], check: bool) -> Any:
        started.append(command[command.index("--output") :])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(plans.subprocess, "run", run)
    finish(plan, output, "baseline", 0, 2, AP=0.5)
    finish(plan, output, "without alignment", 0, 1, AP=0.5)
    run_plan(plan, output)
    assert [Path(command[1]).name for command in started] == [
        "without_alignment_seed0", "baseline_seed1", "without_alignment_seed1",
    ]  # fmt: skip
    assert started[0][2:] == ["--resume"]
    assert started[2][2:] == [
        "--config", str(tmp_path / "recipe.yaml"), "--set", "train.epochs=2", "--set", "model.align=false",
        "--set", "train.seed=1",
    ]  # fmt: skip

    monkeypatch.setattr(plans.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    with pytest.raises(UserError, match="without_alignment_seed0 failed"):
        run_plan(plan, output)


def test_the_table_has_means_and_half_ranges(plan_file: Path, tmp_path: Path) -> None:
    plan, output = load_plan(plan_file), tmp_path / "runs"
    for seed, ap in ((0, 0.40), (1, 0.44)):
        finish(plan, output, "baseline", seed, 2, AP=ap, AP50=0.6, APs=0.3, APm=0.5)
    finish(plan, output, "without alignment", 0, 2, AP=0.2, AP50=0.3, APs=0.1, APm=0.25)
    finish(plan, output, "without alignment", 1, 1, AP=0.9, AP50=0.9, APs=0.9, APm=0.9)  # not at its end
    lines = table(plan, results(plan, output)).splitlines()
    assert lines[0] == "| | runs | AP | AP50 | APs | APm |"
    assert lines[2] == "| baseline | 2 | 0.420 ± 0.020 | 0.600 ± 0.000 | 0.300 ± 0.000 | 0.500 ± 0.000 |"
    assert lines[3] == "| without alignment | 1 | 0.200 | 0.300 | 0.100 | 0.250 |"


def test_runs_of_another_plan_are_no_results(plan_file: Path, tmp_path: Path) -> None:
    plan, output = load_plan(plan_file), tmp_path / "runs"
    finish(plan, output, "baseline", 0, 2, AP=0.5)
    for change, message in (
        ("train.epochs=3", "train.epochs 2, and the plan has 3"),
        ("train.epochs=2, model.input_size=512", "model.input_size 320, and the plan has 512"),
        ("train.epochs=2, data.root=/b", "data.root digits, and the plan has /b"),
    ):
        plan_file.write_text(PLAN.replace("train.epochs=2", change))
        for use in (run_plan, results):
            with pytest.raises(UserError, match=f"baseline_seed0 holds a run with {message}; give another --output"):
                use(load_plan(plan_file), output)
    (row_folder(output, "baseline", 0) / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json is damaged"):
        results(plan, output)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: recipe.yaml\nset: [train.early_stopping_patience=3]\nrows: {a: []}", "have no last epoch in common"),
        ("config: recipe.yaml\nrows: {a: [], a: [model.align=false]}", "a is there twice"),
        ("config: recipe.yaml\nseeds: [2024-13-45]\nrows: {a: []}", "cannot be read"),
        ("[" * 3000, "cannot be read"),
        ("[1, 2]", "expected the keys"),
        ("config: recipe.yaml\nrows: {}", "expected the keys"),
        ("config: recipe.yaml\nrows: {a: model.align=false}", "lists of key=value"),
        ("config: recipe.yaml\nrows: {a: [1]}", "lists of key=value"),
        ("config: recipe.yaml\nseeds: [a]\nrows: {a: []}", "lists of key=value"),
        ("config: recipe.yaml\nseeds: []\nrows: {a: []}", "lists of key=value"),
        ("config: recipe.yaml\nrows: {a: [model.aligned=false]}", "did you mean 'align'"),
        ("config: absent.yaml\nrows: {a: []}", "absent.yaml cannot be read"),
        ("rows: {a: []}", "expected the keys"),
        ("rows: [", "cannot be read"),
        ("config: recipe.yaml\nrows: {Red: [], red: []}", "'Red' and 'red' would share a folder"),
        ("config: recipe.yaml\nrows: {a b: [], a-b: []}", "'a b' and 'a-b' would share a folder"),
        ("config: recipe.yaml\nrows: {1: []}", "the name of each row is a text"),
    ],
)
def test_wrong_plans(plan_file: Path, text: str, message: str) -> None:
    plan_file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_plan(plan_file)


def test_the_command_says_what_is_wrong(plan_file: Path, command: Command) -> None:
    command("run_experiments.py", plan_file, "--only", "base").assert_refused_alone("no row 'base'", "'baseline'")
    command("run_experiments.py", plan_file.with_name("no.yaml")).assert_refused_alone("no.yaml cannot be read")


def test_the_plans_of_the_project_are_right() -> None:
    paths = list((SCRIPTS.parent / "configs" / "experiments").glob("*.yaml"))
    assert paths
    for path in paths:
        load_plan(path)


@pytest.mark.slow
def test_killed_and_called_again(tmp_path: Path) -> None:
    """As a user runs it: killed in the middle, it goes on, and every row ends."""
    data = digits_folder(tmp_path / "digits", num_train=4, num_val=1)
    (tmp_path / "recipe.yaml").write_text(
        f"data: {{root: '{data}'}}\nmodel: {{input_size: 64}}\n"
        "train: {batch_size: 2, nms_pre: 100, proposals: 50, rcnn_samples: 16, rcnn_sampling: random}\n"
    )
    path, output = tmp_path / "plan.yaml", tmp_path / "runs"
    path.write_text(PLAN.replace("seeds: [0, 1]", "seeds: [0]"))
    command = [sys.executable, str(SCRIPTS / "run_experiments.py"), str(path), "--output", str(output)]
    first = subprocess.Popen(command, start_new_session=True)
    while not (output / "baseline_seed0" / "metrics.json").is_file():
        assert first.poll() is None
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| baseline | 1 |" in done.stdout and "| without alignment | 1 |" in done.stdout
    assert len(json.loads((output / "results.json").read_text())) == 2
