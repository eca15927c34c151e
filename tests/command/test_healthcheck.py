"""`viewing-time healthcheck`, which images and orchestrators run every few seconds."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.ports import free_port
from service.command import healthcheck
from service.command.main import main
from tests.conftest import ROOT, RunningService, served
from tests.eventually import eventually


def asked(**variables: str) -> tuple[int, str]:
    """Exit code and output of the command in this process."""
    done = CliRunner().invoke(main, ["healthcheck"], env=variables)
    return done.exit_code, done.output


@contextmanager
def server(answer: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The port of an HTTP server in this process."""
    with HTTPServer(("127.0.0.1", 0), answer) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        yield str(other.server_port)
        other.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_ready_service_passes(service: RunningService, host: str) -> None:
    address = "127.0.0.1" if host == "0.0.0.0" else host
    port = service.url.rpartition(":")[2]
    assert asked(HOST=host, PORT=port) == (0, f"The service on {address}:{port} is ready.\n")


async def test_a_service_on_all_ipv6_addresses_passes_until_it_stops(database: str) -> None:
    port = str(free_port())
    async with served(database, HOST="::", PORT=port, SHUTDOWN_DRAIN_SECONDS="30") as service:
        await eventually(
            lambda: asked(HOST="::", PORT=port),
            until=lambda done: done == (0, f"The service on [::1]:{port} is ready.\n"),
        )
        service.process.send_signal(signal.SIGTERM)
        await eventually(
            lambda: asked(HOST="::", PORT=port),
            until=lambda done: (
                done
                == (1, f"Error: The service on [::1]:{port} is not ready: process is stopping.\n")
            ),
        )
        service.process.send_signal(signal.SIGTERM)


def test_nothing_on_the_port_fails() -> None:
    port = str(free_port())
    sentence = f"Error: The service on 127.0.0.1:{port} does not answer: Connection refused.\n"
    assert asked(PORT=port) == (1, sentence)


def test_a_service_that_does_not_answer_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        sentence = f"Error: The service on 127.0.0.1:{port} does not answer: timed out.\n"
        assert asked(PORT=port) == (1, sentence)


def test_another_program_on_the_port_fails() -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

    with server(Quiet) as port:
        code, output = asked(PORT=port)
    assert code == 1
    assert output.startswith(f"Error: The service on 127.0.0.1:{port} does not answer: JSON ")


def test_a_port_that_is_not_a_number_is_one_sentence() -> None:
    sentence = "Error: PORT must be a whole number from 1 to 65535, not 'http'.\n"
    assert asked(PORT="http") == (1, sentence)


def test_a_host_that_is_no_name_is_one_sentence() -> None:
    code, output = asked(HOST="a b", PORT="1")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("Error: The service on a b:1 does not answer: ")


def test_it_needs_no_secret_and_imports_no_server(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv[1:] = ['healthcheck']\n"
        "from service.__main__ import main\n"
        "try: main()\n"
        "finally: print({'starlette', 'asyncpg', 'uvicorn'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "set()\n")
    assert "does not answer: Connection refused." in done.stderr
