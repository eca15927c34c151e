"""A benchmark run reports errors, missed targets and worse ratios."""

import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from bench import __main__ as command
from bench import against, report, verdict
from bench.figure import Figure, Target
from bench.harness import FULL, QUICK, Scale, Window
from bench.plan import Outcome
from bench.report import Machine, Report

NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)
EARLIER = datetime(2026, 11, 20, tzinfo=UTC)
BLOCKED = 'HTTP/1.1 200 OK\r\nserver: x\r\n\r\n{"enforcement":"blocked"}'
CPU = Figure("CPU", 1.2, "x", Target(1.5), 0.1)


def window(errors: int = 0) -> Window:
    outcome = Outcome(100, errors, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0, BLOCKED if errors else "")
    return Window("heartbeat", "service", 64, 100, 50.0, 20.0, 0.1, outcome)


def run(
    figures: list[Figure], *, date: datetime = NOW, kind: str = "full", client: str = "wrk"
) -> Report:
    versions = {"python": "3.11", "postgresql": "18"}
    machine = Machine("a processor", 2, 8.0, "6.1", 0.1)
    return Report(date, "abc", kind, client, FULL, machine, versions, figures, [window()])


def test_error_responses_are_reported_with_the_first_of_them() -> None:
    assert verdict.errors([window(), window(errors=3)], unaccounted=0) == [
        "heartbeat: 3 of 100 answers of service were errors, the first: "
        'HTTP/1.1 200 OK {"enforcement":"blocked"}'
    ]


def test_lost_heartbeats_are_errors() -> None:
    assert verdict.errors([window()], unaccounted=0) == []
    assert verdict.errors([window()], unaccounted=2) == [
        "2 heartbeats differ between answers and tables"
    ]


def test_missed_targets_are_named_with_value_and_bound() -> None:
    figures = [
        CPU,
        Figure("p95", 250, "ms", Target(200, 100)),
        Figure("rate", 0.5, "x", Target(0.7, at_least=True)),
        Figure("without target", 99),
    ]
    assert verdict.missed(figures) == ["p95: 250 ms, target ≤ 200", "rate: 0.5 x, target ≥ 0.7"]


@pytest.mark.parametrize(
    ("figure", "committed", "is_worse"),
    [
        (CPU, 1.1, False),
        (CPU, 1.0, True),
        (CPU, 9.0, False),
        (Figure("CPU", 1.2, "x", Target(1.5)), 1.0, False),
        (Figure("CPU", 0.8, "x", Target(0.5, at_least=True), 0.1), 0.9, True),
        (Figure("CPU", 0.85, "x", Target(0.5, at_least=True), 0.1), 0.9, False),
        (Figure("CPU", 0.0, "x", Target(0.5, at_least=True), 0.1), 0.9, True),
        (Figure("CPU", 0.0, "x", Target(0.5), 0.1), 0.0, False),
        (Figure("CPU", 5.0, "x", None, 0.1, is_rate=True), 3.0, False),
        (Figure("CPU", 3.0, "x", None, 0.1, is_rate=True), 5.0, True),
    ],
)
def test_a_ratio_is_worse_beyond_its_tolerance(
    figure: Figure, committed: float, is_worse: bool
) -> None:
    before = run([Figure("CPU", committed, "x")])
    assert bool(verdict.regressions([figure], before)) is is_worse


def test_a_worse_ratio_is_named_with_both_values() -> None:
    assert verdict.regressions(
        [CPU, Figure("new", 1, "x", None, 0.1)], run([msgspec.structs.replace(CPU, value=1.0)])
    ) == ["CPU: 1.2 now, 1 in the committed run, 1.20 times as bad (tolerance 1.10)"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results; git reports every file in it as committed."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(report, "RESULTS", folder)

    def listed(*_: str) -> str:
        return "\n".join(f"results/{path.name}" for path in folder.glob("*.json"))

    monkeypatch.setattr(report, "git", listed)
    return folder


def test_the_committed_run_is_the_latest_of_its_kind_and_client(results: Path) -> None:
    for each in (
        run([CPU], date=datetime(2026, 11, 1, tzinfo=UTC)),
        run([CPU], date=EARLIER),
        run([CPU], date=NOW),
        run([CPU], date=datetime(2026, 11, 21, tzinfo=UTC), kind="quick"),
        run([CPU], date=datetime(2026, 11, 22, tzinfo=UTC), client="our own client"),
    ):
        each.write(results)
    found = report.committed("full", "wrk", before=NOW)
    assert found is not None
    assert found.date == EARLIER
    assert report.committed("against abc", "wrk", before=NOW) is None


def make_bench(
    monkeypatch: pytest.MonkeyPatch, out: Path, figures: list[Figure], errors: list[str]
) -> tuple[int, str]:
    """The exit code and the output of the command for a run with these results."""

    async def measured(*_: object) -> tuple[Report, list[str]]:
        return run(figures), errors

    monkeypatch.setattr(command, "run_all", measured)
    result = CliRunner().invoke(command.main, ["statements", "--out", str(out)])
    return result.exit_code, result.output


def test_run_within_its_targets_exits_with_0(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = make_bench(monkeypatch, results, [CPU], [])
    assert (code, "MISSED" in output) == (0, False)
    assert [*results.glob("*.json")]


def test_missed_target_is_reported_and_exits_with_1(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = make_bench(monkeypatch, results, [Figure("p95", 250, "ms", Target(200))], [])
    assert code == 1
    assert output.endswith("targets missed:\n  p95: 250 ms, target ≤ 200\n")


def test_run_with_errors_is_not_written_and_exits_with_3(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = make_bench(monkeypatch, results, [CPU], ["heartbeat: 1 of 2 answers …"])
    assert code == 3
    assert "refused" in output
    assert "heartbeat: 1 of 2 answers …" in output
    assert not [*results.iterdir()]


def test_a_ratio_worse_than_the_committed_run_is_named(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([msgspec.structs.replace(CPU, value=1.0)], date=EARLIER).write(results)
    code, output = make_bench(monkeypatch, results, [CPU], [])
    assert code == 0
    assert "worse than the committed run of 2026-11-20" in output
    assert "CPU: 1.2 now, 1 in the committed run" in output


@pytest.mark.parametrize(
    "arguments",
    [["against"], ["against", "abc", "pin"], ["pin", "against"], ["--quick", "against", "abc"]],
)
def test_against_takes_one_commit_and_nothing_else(arguments: list[str]) -> None:
    result = CliRunner().invoke(command.main, arguments)
    assert result.exit_code == 2
    assert "takes one commit" in result.output


def test_unknown_question_is_refused_with_a_list_of_all() -> None:
    result = CliRunner().invoke(command.main, ["speed"])
    assert result.exit_code == 2
    assert "speed: the questions are statements, heartbeat, " in result.output


def test_quick_run_skips_slow_questions_unless_they_are_named() -> None:
    def planned(*questions: str, quick: bool) -> tuple[str, Scale, list[str]]:
        kind, scale, selected = command.plan(questions, quick)
        return kind, scale, [*selected]

    assert planned(quick=False) == ("full", FULL, [*command.QUESTIONS])
    kind, scale, names = planned(quick=True)
    assert (kind, scale) == ("quick", QUICK)
    assert names == [name for name in command.QUESTIONS if name not in command.SLOW]
    assert planned("pin", quick=True)[2] == ["pin"]
    assert planned("against", "abc", quick=False) == ("against abc", against.SCALE, ["against"])


def test_committed_results_have_no_errors_and_can_be_read() -> None:
    for path in Path(report.__file__).parent.glob("results/*.json"):
        found = msgspec.json.decode(path.read_bytes(), type=Report)
        assert verdict.errors(found.windows, 0) == []
        assert json.loads(path.read_bytes())["kind"] == found.kind
