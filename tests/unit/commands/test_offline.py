"""`rlvr verify` without the command line: order, malformed rows, compressed files, hanging rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands.verify_file import WINDOW_ROWS, OfflineReport, verify_file
from rlvr.errors import DataError, PluginError
from rlvr.records import Status

KEYS = ["id", "status", "score", "extracted", "reason", "seconds", "verifier"]


def verify_rows(
    tmp_path: Path, lines: list[Any], verifier: str = "text_match", **settings: Any
) -> tuple[OfflineReport, list[dict[str, Any]]]:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode("ascii") for line in lines]
    source.write_bytes(b"\n".join(encoded) + b"\n")
    report = verify_file(verifier, source, target, settings, workers=1, deadline_s=1.0)
    assert [path.name for path in tmp_path.glob("*.part")] == []
    return report, [json.loads(line) for line in target.read_text(encoding="ascii").splitlines()]


def row(row_id: Any, completion: str, reference: Any = "yes", **more: Any) -> dict[str, Any]:
    return {"id": row_id, "completion": completion, "reference": reference, **more}


def test_rows_come_out_in_order_with_the_keys_of_the_format(tmp_path: Path) -> None:
    report, rows = verify_rows(tmp_path, [row(1, "yes"), row("two", "no"), row(None, "yes")])
    assert [list(out) for out in rows] == [KEYS] * 3
    assert [(out["id"], out["status"], out["score"]) for out in rows] == [
        (1, "PASS", 1.0),
        ("two", "FAIL", 0.0),
        (None, "PASS", 1.0),
    ]
    assert rows[0]["verifier"] == "text_match@2"
    assert (report.num_rows, report.had_errors) == (3, False)
    assert report.counts[Status.PASS] == 2


def test_malformed_rows_are_errors_with_their_line_and_no_row_is_lost(tmp_path: Path) -> None:
    lines: list[Any] = [
        row(1, "yes"),
        b"{not json",
        b"\xff\xfe",
        b"",
        [1, 2],
        {"id": 6, "completion": "yes"},
        {"id": 7, "completion": 5, "reference": "yes"},
        row(8, "yes", prompt=5),
        row(9, "yes", prompt=[{"role": "user"}]),
        b"[" * 100_000,
        row(11, "yes"),
    ]
    report, rows = verify_rows(tmp_path, lines)
    assert [out["status"] for out in rows] == ["PASS", *["ERROR"] * 8, "PASS"]
    assert [out["id"] for out in rows] == [1, None, None, None, 6, 7, 8, 9, None, 11]
    line_numbers = [int(out["reason"].split(":")[0].removeprefix("line ")) for out in rows[1:-1]]
    assert line_numbers == [2, 3, 5, 6, 7, 8, 9, 10]
    assert "lacks reference" in rows[4]["reason"]
    assert all(out["score"] is None for out in rows[1:-1])
    assert (report.num_rows, report.num_malformed, report.had_errors) == (10, 8, True)


def test_a_reference_that_cannot_be_used_is_an_error_of_its_row(tmp_path: Path) -> None:
    report, rows = verify_rows(tmp_path, [row(1, "\\boxed{4}", ""), row(2, "\\boxed{4}", "4")], verifier="math")
    assert [out["status"] for out in rows] == ["ERROR", "PASS"]
    assert "is empty" in rows[0]["reason"]
    assert (report.num_malformed, report.had_errors) == (0, True)


def test_prompts_may_be_text_or_messages(tmp_path: Path) -> None:
    plugin = tmp_path / "look.py"
    plugin.write_text(
        "from rlvr.plugin import verifier\n"
        "@verifier(version='1')\n"
        "def look(prompt, reference):\n"
        "    return reference in (prompt.text, *(m.content for m in prompt.messages))\n",
        encoding="utf-8",
    )
    messages = [{"role": "user", "content": "yes"}]
    lines = [row(1, "", prompt="yes"), row(2, "", prompt=messages), row(3, ""), row(4, "", prompt="")]
    _, rows = verify_rows(tmp_path, lines, verifier=f"{plugin}:look")
    assert [out["status"] for out in rows] == ["PASS", "PASS", "FAIL", "FAIL"]


def test_a_hanging_row_costs_itself_only(tmp_path: Path) -> None:
    plugin = tmp_path / "moody.py"
    plugin.write_text(
        "import time\n"
        "from rlvr.plugin import verifier\n"
        "@verifier(version='1')\n"
        "def moody(text, reference):\n"
        "    if text == 'hang':\n"
        "        time.sleep(3600)\n"
        "    return text == reference\n",
        encoding="utf-8",
    )
    lines = [row(n, "hang" if n == 5 else "yes") for n in range(30)]
    report, rows = verify_rows(tmp_path, lines, verifier=f"{plugin}:moody")
    assert [out["id"] for out in rows] == list(range(30))
    assert [out["status"] for out in rows] == ["FAIL" if n == 5 else "PASS" for n in range(30)]
    assert report.had_errors is False


def test_a_file_longer_than_the_window_keeps_its_order(tmp_path: Path) -> None:
    count = 2 * WINDOW_ROWS + 7
    settings = {"mode": "regex", "pattern": r"(\d+)"}
    lines = [row(n, f"it is {n}", str(n)) for n in range(count)]
    report, rows = verify_rows(tmp_path, lines, **settings)
    assert [out["id"] for out in rows] == list(range(count))
    assert report.counts[Status.PASS] == count


def test_compressed_files_are_read_and_written(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz"
    text = "".join(json.dumps(row(n, "yes")) + "\n" for n in range(2000))
    source.write_bytes(gzip.compress(text.encode()))
    assert verify_file("text_match", source, target, {}, 1, 1.0).num_rows == 2000
    with gzip.open(target, "rt") as lines:
        assert [json.loads(line)["id"] for line in lines] == list(range(2000))


def test_a_file_that_breaks_off_ends_in_an_error(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl"
    whole = gzip.compress(json.dumps(row(1, "yes")).encode() + b"\n")
    source.write_bytes(whole[:-6])
    report = verify_file("text_match", source, target, {}, 1, 1.0)
    assert report.had_errors
    last = json.loads(target.read_text().splitlines()[-1])
    assert "cannot be read further" in last["reason"]


def test_wrong_calls_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with pytest.raises(DataError, match="does not exist"):
        verify_file("text_match", source, target, {}, 1, 1.0)
    source.write_text("")
    with pytest.raises(PluginError, match="no_setting"):
        verify_file("text_match", source, target, {"no_setting": 1}, 1, 1.0)
    with pytest.raises(PluginError, match="settings of sandbox 'auto': slotz"):
        verify_file("code", source, target, {}, 1, 1.0, sandbox=("auto", {"slotz": 3}))
    with pytest.raises(DataError, match="cannot be written"):
        verify_file("text_match", source, tmp_path / "no" / "folder", {}, 1, 1.0)
    assert not target.exists()


def test_a_row_without_id_gets_the_number_of_its_line(tmp_path: Path) -> None:
    lines = [row("a", "yes"), {"completion": "no", "reference": "yes"}, row(None, "yes")]
    report, rows = verify_rows(tmp_path, lines)
    assert [(out["id"], out["status"]) for out in rows] == [("a", "PASS"), (2, "FAIL"), (None, "PASS")]
    assert not report.had_errors


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    first = b"\xef\xbb\xbf" + json.dumps(row(1, "yes")).encode()
    _, rows = verify_rows(tmp_path, [first, row(2, "yes")])
    assert [out["status"] for out in rows] == ["PASS", "PASS"]


def test_a_raising_verifier_is_named_with_its_file_and_line(tmp_path: Path) -> None:
    plugin = tmp_path / "bugs.py"
    plugin.write_text(
        "import json\nfrom rlvr.plugin import verifier\n\n@verifier(version='1')\ndef bug(text, reference):\n"
        "    return helper(text) == reference\n\ndef helper(text):\n    return json.loads(text)['answer']\n"
    )
    lines = [row(i, text) for i, text in enumerate(['{"answer": "yes"}', "[1]", "x", "y", "{}"])]
    report, rows = verify_rows(tmp_path, lines, verifier=f"{plugin}:bug")
    assert [out["status"] for out in rows] == ["PASS", *["ERROR"] * 4]
    place = "(bugs.py:9, in helper: return json.loads(text)['answer'])"
    assert all(place in out["reason"] for out in rows[1:])
    assert len(report.first_errors) == 3
    assert report.first_errors[0].startswith("row 1: bug@1 raised TypeError: ")
    assert report.rows[-1] == ("", "", report.first_errors[-1])
    assert report.traceback.startswith('  File "bugs.py", line 6, in bug\n')
    assert report.traceback.count("  File ") == 2
