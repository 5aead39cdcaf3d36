"""What the README and the first pages of the documentation say can be done, works as it stands there."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest
from foliot import Options
from foliot.sdk.cli import main
from foliot.sdk.cli_up import up
from foliot.sdk.options import TaskOptions

from ..sources import ROOT
from .pages import Block, Reader, blocks, prints

PAGES = ["README.md", "examples/census/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def test_the_first_program_of_the_readme_and_its_commands_do_what_it_says(tmp_path: Path) -> None:
    program, *steps = blocks("README.md", since="## A first program", until="## What works today")
    assert program.kind == "python"
    assert len([line for line in program.text.splitlines() if line.strip()]) <= 10
    (tmp_path / "shop.py").write_text(program.text, encoding="utf-8")
    assert steps[0] == Block("console", "foliot up --app shop:app\n")
    reader = Reader(tmp_path)

    with reader.in_another_terminal(steps[0].text):
        for kind, text in steps[1:]:
            if kind == "console":
                for command in text.splitlines():
                    done = reader.type(command)
                    assert "Traceback" not in done.stderr, f"{command}\n{done.stderr}"
            else:
                for line in text.splitlines():
                    assert prints(line, done.stdout), f"{command}\nexpected {line}\ngot {done.stdout}{done.stderr}"

        assert reader.type("foliot dlq list --json").stdout == "", "the dead letter was retried"


def test_the_programs_of_getting_started_run(tmp_path: Path) -> None:
    shop, orders, sync, many, embedded = [block.text for block in blocks("docs/getting-started.md")]
    (tmp_path / "shop.py").write_text(shop, encoding="utf-8")
    reader = Reader(tmp_path)

    def run(program: str) -> list[str]:
        (tmp_path / "program.py").write_text(program, encoding="utf-8")
        done = reader.type(f"{sys.executable} program.py")
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if line]

    with reader.in_another_terminal("foliot up --app shop:app"):
        same, items, bolt, nut, token, after, dead, due, cancelled = run(orders)
        assert same == "True receipt 42 sent to ann@example.org"
        assert items == "21 items"
        assert bolt.endswith("reserving name=bolt count=20")
        assert nut.endswith("reserving name=nut count=1")
        assert re.fullmatch(r"0[0-9a-z]{12}-2", token), "the token of the second attempt"
        assert after == "completed after attempt 2 ['RetryLater']"
        assert dead.endswith("ValueError: 'nobody' is no address")
        assert due.startswith("it is due in 23h 59m")
        assert cancelled == "cancelled"
        assert run(sync) == ["receipt 45 sent to bob@example.org"]
        assert run(many) == ["10000 accepted, 0 refused", "balanced"]

    assert [line for line in run(embedded) if re.fullmatch(r"0[0-9a-z]{12}-2", line)]


def test_the_endless_handler_of_getting_started_is_killed(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(blocks("docs/getting-started.md")[0].text, encoding="utf-8")
    reader = Reader(tmp_path)

    with reader.in_another_terminal("foliot up --app shop:app"):
        fine = reader.type("foliot submit shop.resize -p width=100 --wait")
        endless = reader.type("foliot submit shop.resize -p width=101 --timeout 1s --max-attempts 1 --wait")

    assert fine.stdout.strip() == "100"
    assert "TaskTimeoutError" in endless.stderr
    assert endless.returncode == 1


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]

    missing = [link for link in targets if link and not ((ROOT / page).parent / link).exists()]
    assert missing == []


def test_the_table_of_options_has_every_option() -> None:
    """And none that there is not."""
    text = (ROOT / "docs/tasks.md").read_text(encoding="utf-8")
    all_options = text.partition("## All options")[2].partition("\n## ")[0]
    of_handlers, _, of_tasks = all_options.partition("At submission")
    listed = re.findall(r"^\| `(\w+)` \|", of_handlers, re.MULTILINE)

    assert sorted(listed) == sorted(["name", *inspect.signature(TaskOptions).parameters])
    assert [name for name in inspect.signature(Options).parameters if f"`{name}`" not in of_tasks] == []


def test_the_page_of_the_command_line_has_every_command_and_the_options_of_up() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    commands = [name for name in main.list_commands(None) if f"foliot {name}" not in text]  # type: ignore[arg-type]
    options = [option for parameter in up.params for option in parameter.opts if f"`{option}" not in text]

    assert commands == []
    assert [option for option in options if option not in ("--app", "--help")] == []
