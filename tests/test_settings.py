"""All errors are reported at once, one sentence each; secrets are never shown."""

import os
from pathlib import Path

import pytest

from service import setting_values
from service.command import demo
from service.settings import FIELDS, Settings, SettingsError, masked, read

SECRET = "0123456789abcdef0123456789abcdef"
NEEDED = {"DATABASE_URL": "postgresql://vt:pass@db.example:5432/vt", "JWT_SECRET": SECRET}
PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----"""


def errors(environment: dict[str, str]) -> list[str]:
    """The error sentences for an invalid environment."""
    with pytest.raises(SettingsError) as caught:
        read(environment)
    assert str(caught.value) == "\n".join(caught.value.errors)
    return caught.value.errors


def test_every_field_is_read_from_its_variable() -> None:
    free_text = {"jwt_issuer", "jwt_audience", "host", "metrics_host"}
    others = [name.upper() for name in FIELDS if name not in free_text]
    found = errors({**dict.fromkeys(others, "-"), "CORS_ORIGINS": "-"})
    assert [error.split()[0] for error in found] == others
    settings = read({**NEEDED, **{name.upper(): "x" for name in free_text}})
    assert {name for name in free_text if getattr(settings, name) == "x"} == free_text


def test_only_database_url_and_jwt_secret_are_required() -> None:
    assert read(NEEDED) == Settings(
        database_url=NEEDED["DATABASE_URL"], jwt_secret=NEEDED["JWT_SECRET"]
    )
    assert errors({}) == ["DATABASE_URL must be set.", "JWT_SECRET must be set."]


def test_empty_variable_is_ignored() -> None:
    assert read({**NEEDED, "PORT": "", "CORS_ORIGINS": "  "}) == read(NEEDED)
    assert errors({**NEEDED, "JWT_SECRET": " "}) == ["JWT_SECRET must be set."]


def test_values_are_read_by_the_types_of_their_fields() -> None:
    settings = read(
        {
            **NEEDED,
            "PORT": " 9000 ",
            "CORS_ORIGINS": "https://tv.example, http://localhost:5173/",
            "LOG_LEVEL": "debug",
            "JWT_REQUIRE_EXP": "Yes",
            "REQUEST_TIMEOUT_SECONDS": "0.5",
            "KEEP_ALIVE_SECONDS": "600",
            "JWT_JWKS_URL": "https://accounts.example/jwks.json",
        }
    )
    assert settings.port == 9000
    assert settings.cors_origins == ("https://tv.example", "http://localhost:5173")
    assert settings.log_level == "DEBUG"
    assert settings.jwt_require_exp
    assert settings.request_timeout_seconds == 0.5
    assert settings.keep_alive_seconds == 600
    assert settings.jwt_jwks_url == "https://accounts.example/jwks.json"


def test_all_errors_are_reported_at_once() -> None:
    assert errors(
        {
            "DATABASE_URL": "postgres//x",
            "JWT_SECRET": "hush",
            "JWT_JWKS_URL": "accounts.example/jwks.json",
            "JWT_JWKS_FILE": "/nowhere/jwks.json",
            "JWT_REQUIRE_EXP": "maybe",
            "PORT": "65536",
            "POOL_MIN_SIZE": "9",
            "POOL_MAX_SIZE": "ten",
            "CORS_ORIGINS": "tv.example",
            "LOG_LEVEL": "loud",
            "REQUEST_TIMEOUT_SECONDS": "soon",
            "KEEP_ALIVE_SECONDS": "0",
            "SHUTDOWN_GRACE_SECONDS": "nan",
        }
    ) == [
        "DATABASE_URL must look like postgresql://user:password@host:5432/database.",
        "JWT_SECRET must be at least 32 characters long.",
        "JWT_JWKS_URL must look like https://accounts.example/.well-known/jwks.json, "
        "not 'accounts.example/jwks.json'.",
        "JWT_JWKS_FILE must name a file that can be read, not '/nowhere/jwks.json'.",
        "JWT_REQUIRE_EXP must be true or false, not 'maybe'.",
        "PORT must be a whole number from 1 to 65535, not '65536'.",
        "POOL_MAX_SIZE must be a whole number from 1 to 1000, not 'ten'.",
        "CORS_ORIGINS must be origins like https://tv.example, separated by commas, "
        "not 'tv.example'.",
        "LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not 'loud'.",
        "REQUEST_TIMEOUT_SECONDS must be a number of seconds from 0.05 to 600, not 'soon'.",
        "KEEP_ALIVE_SECONDS must be a whole number from 1 to 3600, not '0'.",
        "SHUTDOWN_GRACE_SECONDS must be a number of seconds from 0 to 600, not 'nan'.",
        "POOL_MIN_SIZE must not be larger than POOL_MAX_SIZE.",
    ]


@pytest.mark.parametrize("number", ["ten", "-1", "1.5", "١٢", "1e3", "0x10", "9" * 5000, "+1"])
def test_text_that_is_not_a_whole_number_is_refused(number: str) -> None:
    (error,) = errors({**NEEDED, "POOL_MAX_SIZE": number})
    assert error.startswith("POOL_MAX_SIZE must be a whole number from 1 to 1000, not ")
    assert len(error) < 200


@pytest.mark.parametrize(
    "address",
    [
        "postgres//x",
        "mysql://h/d",
        "postgresql:/h/d",
        "postgresql://u:p@h:abc/d",
        "postgresql://u:p@h:99999/d",
        "postgresql://[::1/d",
        "host=h dbname=d",
    ],
)
def test_url_that_is_not_of_postgresql_is_refused(address: str) -> None:
    assert errors({**NEEDED, "DATABASE_URL": address}) == [
        "DATABASE_URL must look like postgresql://user:password@host:5432/database."
    ]


@pytest.mark.parametrize("password", ["p/w", "p@w", "p#w", "p?w", "p%zzw", "p%", "%ff", "p/@?%#w"])
def test_a_password_that_is_not_encoded_is_refused_with_a_hint(password: str) -> None:
    assert errors({**NEEDED, "DATABASE_URL": f"postgresql://u:{password}@h:5432/d"}) == [
        "DATABASE_URL must look like postgresql://user:password@host:5432/database; "
        "percent-encode special characters in the password."
    ]


@pytest.mark.parametrize(
    "address",
    [
        "postgres://u:p%40@h/d",
        "postgresql:///d?host=/run/postgresql&port=5433",
        "postgresql://postgres:@/postgres?host=/tmp/x",
        "postgresql://u@h1:5432,h2:5433/d?target_session_attrs=primary",
        "postgresql://u@[::1]:5432/d",
    ],
)
def test_every_form_of_a_database_url_is_accepted(address: str) -> None:
    assert read({**NEEDED, "DATABASE_URL": address}).database_url == address


@pytest.mark.parametrize("url", ["ftp://h/k", "file:///etc/passwd", "https://", "https://u:p@h/k"])
def test_url_of_published_keys_must_be_http_without_credentials(url: str) -> None:
    (error,) = errors({**NEEDED, "JWT_JWKS_URL": url})
    assert error.startswith("JWT_JWKS_URL must look like https://")


@pytest.mark.parametrize("attributes", ["readwrite", "Primary", "any&target_session_attrs=none"])
def test_unknown_target_session_attrs_is_refused(attributes: str) -> None:
    address = f"postgresql://h1,h2/d?target_session_attrs={attributes}"
    (error,) = errors({**NEEDED, "DATABASE_URL": address})
    assert error == (
        "DATABASE_URL must have a target_session_attrs that is one of "
        "any, primary, standby, read-write, read-only, prefer-standby."
    )


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("150000 100000", 1), ("20000 100000", 1), ("300000 100000", 3), ("", 8)],
)
def test_workers_are_a_number_or_the_cores_that_may_be_used(
    quota: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(setting_values, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    assert read({**NEEDED, "WEB_CONCURRENCY": "auto"}).web_concurrency == cores
    assert read({**NEEDED, "WEB_CONCURRENCY": "3"}).web_concurrency == 3


def test_the_two_ports_must_differ() -> None:
    assert errors({**NEEDED, "PORT": "0"}) == [
        "PORT must be a whole number from 1 to 65535, not '0'."
    ]
    assert read({**NEEDED, "METRICS_PORT": "0"}).metrics_port == 0
    same = {**NEEDED, "METRICS_PORT": "8000"}
    assert errors(same) == ["METRICS_PORT must not be the same as PORT."]
    assert read({**same, "METRICS_HOST": "10.0.0.1"}).metrics_port == 8000


def test_a_missing_extra_is_reported_without_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.find_spec", lambda _: None)
    assert errors({**NEEDED, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}) == [
        "OTEL_EXPORTER_OTLP_ENDPOINT needs the extra otel: pip install 'viewing-time[otel]'."
    ]


@pytest.mark.parametrize(
    ("proxies", "read_as"),
    [
        ("*", "*"),
        ("10.0.0.7, ::1", "10.0.0.7/32,::1/128"),
        ("10.0.0.7/8,fd00::/8", "10.0.0.0/8,fd00::/8"),
    ],
)
def test_proxies_are_read_as_networks(proxies: str, read_as: str) -> None:
    assert read({**NEEDED, "FORWARDED_ALLOW_IPS": proxies}).forwarded_allow_ips == read_as


@pytest.mark.parametrize("proxies", ["proxy.example", "10.0.0.0/33", "*,10.0.0.1", "10.0.0.1,"])
def test_text_that_is_not_a_network_is_refused_as_a_proxy(proxies: str) -> None:
    assert errors({**NEEDED, "FORWARDED_ALLOW_IPS": proxies}) == [
        "FORWARDED_ALLOW_IPS must be * or addresses and networks, separated by commas, "
        f"not {proxies!r}."
    ]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("::1", "http://[::1]:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
    ],
)
def test_printed_urls_can_be_opened_on_this_computer(host: str, origin: str) -> None:
    settings = read({**NEEDED, "HOST": host, "PORT": "9000"})
    assert settings.origin == origin
    assert f" {origin}/api/v1/" in demo.curls(settings)


def test_published_keys_come_from_a_url_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text("{}")
    keys = {"JWT_JWKS_FILE": str(tmp_path / "jwks.json"), "JWT_JWKS_URL": "https://h/k"}
    assert errors({**NEEDED, **keys}) == ["JWT_JWKS_URL and JWT_JWKS_FILE must not both be set."]


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(NEEDED["DATABASE_URL"] + "\n")
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "previous").write_text(SECRET[::-1])
    settings = read(
        {
            "DATABASE_URL_FILE": str(tmp_path / "url"),
            "JWT_SECRET_FILE": str(tmp_path / "secret"),
            "JWT_SECRET_PREVIOUS_FILE": str(tmp_path / "previous"),
            "PORT_FILE": "/nowhere",
        }
    )
    assert settings == Settings(
        database_url=NEEDED["DATABASE_URL"], jwt_secret=SECRET, jwt_secret_previous=SECRET[::-1]
    )


def test_a_file_without_a_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "public.pem").write_text(PUBLIC_KEY)
    assert errors(
        {
            "DATABASE_URL": "postgresql://h/d",
            "DATABASE_URL_FILE": str(tmp_path / "empty"),
            "JWT_SECRET_FILE": str(tmp_path / "missing"),
        }
    ) == [
        "DATABASE_URL and DATABASE_URL_FILE must not both be set.",
        "JWT_SECRET_FILE must name a file of text that can be read.",
    ]
    assert errors(
        {
            "DATABASE_URL_FILE": str(tmp_path / "empty"),
            "JWT_SECRET_FILE": str(tmp_path / "public.pem"),
            "JWT_SECRET_PREVIOUS_FILE": str(tmp_path / "binary"),
        }
    ) == [
        "DATABASE_URL_FILE names a file that is empty.",
        "JWT_SECRET must be a secret, not a key or a certificate.",
        "JWT_SECRET_PREVIOUS_FILE must name a file of text that can be read.",
    ]


def test_an_error_never_shows_a_secret() -> None:
    wrong = {"DATABASE_URL": "mysql://u:hunter2@h/d", "JWT_SECRET": "hunter2", "PORT": "x"}
    sentences = errors({**wrong, "JWT_SECRET_PREVIOUS": "hunter2"})
    assert len(sentences) == 4
    assert "hunter2" not in " ".join(sentences)


def test_masked_shows_everything_but_secrets() -> None:
    settings = read({**NEEDED, "JWT_SECRET_PREVIOUS": SECRET[::-1], "HOST": "0.0.0.0"})
    shown = masked(settings)
    assert [*shown] == [*Settings.__struct_fields__]
    assert {name for name, value in shown.items() if value == "***"} == {
        "database_url",
        "jwt_secret",
        "jwt_secret_previous",
    }
    assert shown["database_direct_url"] == ""
    assert shown["host"] == "0.0.0.0"
    assert not any(text in str(shown) for text in (SECRET, SECRET[::-1], "pass@"))


HOOK = {
    **NEEDED,
    "WEBHOOK_URL": "https://hook:open%20sesame@platform.example:8443/events?x=1",
    "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def test_webhook_is_read_and_masked() -> None:
    settings = read({**HOOK, "WEBHOOK_SECRET_PREVIOUS": HOOK["WEBHOOK_SECRET"]})
    assert settings.webhook_url == HOOK["WEBHOOK_URL"]
    assert settings.webhook_secret == settings.webhook_secret_previous == HOOK["WEBHOOK_SECRET"]
    shown = masked(settings)
    assert {shown[name] for name in shown if name.startswith("webhook_")} == {"***"}


@pytest.mark.parametrize(
    "url",
    [
        "platform.example/events",
        "ftp://platform.example/events",
        "file:///etc/passwd",
        "https://",
        "https://:8443/events",
        "https://platform.example:99999/",
        "https://platform.example:0/",
        "https://platform.example/a b",
        "https://platform.example/\n/x",
        "https://platform.example/#events",
        "https://[::1/events",
        "https://plåtform.example/",
    ],
)
def test_webhook_url_that_is_not_http_is_refused_without_repeating_it(url: str) -> None:
    assert errors({**HOOK, "WEBHOOK_URL": url}) == [
        "WEBHOOK_URL must look like https://platform.example/viewing-events."
    ]


@pytest.mark.parametrize(
    "secret",
    [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_",
        "whsec_" + "QUFB" * 7,  # 21 bytes
        "whsec_" + "QUFB" * 22,  # 66 bytes
        "whsec_not base64, but long enough to be a key",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-",
        "whsec_ключключключключключключключключ",
    ],
)
@pytest.mark.parametrize("name", ["WEBHOOK_SECRET", "WEBHOOK_SECRET_PREVIOUS"])
def test_webhook_secret_that_is_not_valid_is_refused_without_repeating_it(
    name: str, secret: str
) -> None:
    sentence = f"{name} must be whsec_ and 24 to 64 random bytes in base64."
    assert errors({**HOOK, name: secret}) == [sentence]


def test_webhook_needs_a_secret() -> None:
    environment = {name: value for name, value in HOOK.items() if name != "WEBHOOK_SECRET"}
    assert errors(environment) == ["WEBHOOK_URL needs WEBHOOK_SECRET."]


def test_webhook_settings_can_be_in_files(tmp_path: Path) -> None:
    environment = dict(NEEDED)
    for name in ("WEBHOOK_URL", "WEBHOOK_SECRET"):
        (tmp_path / name).write_text(f"{HOOK[name]}\n")
        environment[f"{name}_FILE"] = str(tmp_path / name)
    assert read(environment) == read(HOOK)
