"""Continuous integration, issue forms and the hooks before a commit: their files can be read and fit the project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.storage.files import ROOT

FOLDER = ROOT / ".github"
WORKFLOWS = sorted(FOLDER.glob("workflows/*.yml"))
FORMS = sorted(file for file in FOLDER.glob("ISSUE_TEMPLATE/*.yml") if file.stem != "config")


def read(file: Path) -> dict[Any, Any]:
    """Return the content of a YAML file."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def commands(workflow: Path, job: str) -> list[str]:
    """Return what the steps of a job run."""
    return [step["run"] for step in read(workflow)["jobs"][job]["steps"] if "run" in step]


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile, as they are without make."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert lines, f"the Makefile has no target {target}"
    pytest_call = re.search(r"^PYTEST := (.*)$", text, re.MULTILINE)
    assert pytest_call
    meanings = {"$(PYTEST)": pytest_call[1], "$(RUN)": "python", "$(ARGS)": ""}
    commands = []
    for line in lines[1].splitlines():
        for name, meaning in meanings.items():
            line = line.replace(name, meaning)
        commands.append(line.strip())
    return commands


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_are_bounded_and_may_only_read(file):
    content = read(file)
    assert content["permissions"] == {"contents": "read"} and content[True]  # YAML 1.1 takes the key "on" for True
    for job in content["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 240 and "permissions" not in job
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/(checkout|setup-python)@v\d+", step.get("uses", "actions/checkout@v4"))


def test_there_is_one_for_each_push_and_one_for_each_night():
    quick, nightly = (read(FOLDER / f"workflows/{name}.yml") for name in ("quick", "nightly"))
    assert {"push", "pull_request"} == set(quick[True]) and "schedule" in nightly[True]
    systems = [entry["system"].partition("-")[0] for entry in quick["jobs"]["tests"]["strategy"]["matrix"]["include"]]
    assert systems == ["ubuntu", "ubuntu", "windows", "macos"]


def test_they_run_what_make_runs():
    quick, nightly = (FOLDER / f"workflows/{name}.yml" for name in ("quick", "nightly"))
    assert commands(quick, "style")[1:] == [*recipe("lint"), *recipe("types")]
    assert commands(quick, "tests")[1:] == recipe("quick")
    profile = read(nightly)["jobs"]["tests"]["env"]["HYPOTHESIS_PROFILE"]
    assert [f"HYPOTHESIS_PROFILE={profile} {command}" for command in commands(nightly, "tests")[1:]] == recipe(
        "nightly"
    )


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_both_ends_of_what_is_supported_are_tested(file):
    least = re.search(r'^requires-python = ">=([\d.]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    readme = re.search(r"Python ([\d.]+) to ([\d.]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert least and readme and least[1] == readme[1]
    entries = read(file)["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {entry["python"]: entry.get("constraint") for entry in entries} == {
        readme[1]: ".github/oldest.txt", readme[2]: None
    }  # fmt: skip


def test_the_oldest_end_is_the_lower_bound_of_the_requirements():
    bounds = dict(re.findall(r"^([\w-]+)>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    pins = re.findall(r"^([\w-]+)==([\d.]+)$", (FOLDER / "oldest.txt").read_text(), re.MULTILINE)
    assert [name for name, _ in pins] == ["torch", "torchvision"]
    for name, version in pins:
        assert version.startswith(f"{bounds[name]}."), f"{name}: {version} is not the least of >={bounds[name]}"


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_issue_forms_ask_for_what_is_needed(file):
    form = read(file)
    assert form["name"] and form["description"]
    fields = [entry for entry in form["body"] if entry["type"] != "markdown"]
    names = [entry["id"] for entry in fields]
    assert len(names) == len(set(names))
    assert all({"label", "description"} <= set(entry["attributes"]) for entry in fields)
    assert any(entry["validations"]["required"] for entry in fields)
    assert all((ROOT / page).is_file() for page in re.findall(r"[A-Z]+\.md", str(form)))


def test_the_form_for_faults_asks_for_the_version():
    fields = {entry.get("id"): entry for entry in read(FOLDER / "ISSUE_TEMPLATE/bug.yml")["body"]}
    assert fields["version"]["validations"]["required"]
    assert "--version" in fields["version"]["attributes"]["description"]


def test_hooks_use_the_versions_of_the_requirements():
    wanted = re.search(r"^ruff\S+", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    hooks = [hook for place in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in place["hooks"]]
    assert {"ruff-check", "ruff-format", "end-of-file", "large-files"} == {hook["id"] for hook in hooks}
    for hook in hooks:
        if hook["id"].startswith("ruff"):
            assert wanted and hook["additional_dependencies"] == [wanted[0]]
