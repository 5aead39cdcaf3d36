"""What docs/schedules.md says can be done, works as it stands there; its previews print what it shows."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from pathlib import Path

from foliot.sdk.rules import RULE_WORDS
from foliot.sdk.schedule_words import POLICY_WORDS, TASK_WORDS

from ..sources import ROOT
from .pages import Reader, blocks, prints

PAGE = "docs/schedules.md"
HOLIDAYS = "# holidays_de.txt"


def holidays() -> str:
    (text,) = [block.text for block in blocks(PAGE) if block.text.startswith(HOLIDAYS)]
    return text


def test_previews_print_what_the_page_shows(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    (tmp_path / "holidays_de.txt").write_text(holidays(), encoding="utf-8")
    every = blocks(PAGE)
    shown = [
        (command.text, text.text) for command, text in pairwise(every) if command.text.startswith("foliot schedules preview")
    ]

    assert len(shown) >= 3
    for command, text in shown:
        done = reader.type(command)
        assert done.returncode == 0, done.stderr
        assert [line for line in text.splitlines() if not prints(line, done.stdout)] == [], done.stdout
        assert len(done.stdout.splitlines()) == len(text.splitlines()) + 1


def test_the_programs_and_commands_of_the_page_run(tmp_path: Path) -> None:
    shop, client, calendar, closing, backfill, many = [block.text for block in blocks(PAGE) if block.kind == "python"]
    (create,) = [block.text for block in blocks(PAGE) if block.text.startswith("foliot schedules create")]
    (tmp_path / "shop.py").write_text(shop, encoding="utf-8")
    (tmp_path / "holidays_de.txt").write_text(holidays(), encoding="utf-8")
    body = "".join(f"    {line}\n" for line in (calendar + backfill + many).splitlines())
    (tmp_path / "program.py").write_text(client + body + "    print(backfill.status().schedule)\n", encoding="utf-8")
    reader = Reader(tmp_path)

    with reader.in_another_terminal("foliot up --app shop:app"):
        done = reader.type(f"{sys.executable} program.py")
        set_again = reader.type("foliot calendars set --file holidays_de.txt")
        created = reader.type(create)
        listed = reader.type("foliot schedules list")

    assert done.returncode == 0, done.stderr
    *ticks, result, count, created_many, schedule = done.stdout.splitlines()
    assert len(ticks) == 3
    assert all(" 18:00:00+0" in tick for tick in ticks)
    assert re.fullmatch(r"monthly report of 20.*\+00:00, made by invoices", result)
    assert (count, created_many, schedule) == ("2 ticks", "3", "invoices")
    assert set_again.stdout.startswith("holidays_de, version 2: 01-01 05-01 10-03 12-25 12-26, easter-2 easter+1 easter+39")
    assert "closing: 0 18 L * * moved back to weekdays and not holidays_de" in created.stdout, created.stderr
    names = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert names == ["closing", "invoices", "shop.0", "shop.1", "shop.2", "shop.report", "shop.weekly"]

    (tmp_path / "books").mkdir()
    books = Reader(tmp_path / "books")
    (books.folder / "books.py").write_text(closing, encoding="utf-8")
    with books.in_another_terminal("foliot up --app books:app"):
        declared = books.type("foliot schedules list")
    assert "0 18 L * *" in declared.stdout, declared.stderr


def test_the_table_of_options_has_every_option() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    table = text.partition("## Options")[2].partition("\n### ")[0]
    patterns = text.partition("## Patterns")[2].partition("\n### ")[0]

    when = [word for word in RULE_WORDS if f"`{word}=" in patterns or f"`{word}`" in patterns]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)))
    assert sorted({*when, *listed}) == sorted({*RULE_WORDS, *POLICY_WORDS, *TASK_WORDS})
    assert holidays().count("easter") == 4
