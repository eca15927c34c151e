"""A URL means the same TLS for both drivers; PgBouncer is the server."""

import asyncio
import ipaddress
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.replication import shared_folder
from service import database_url
from service.database.pool import connect
from service.database_errors import Unavailable
from service.settings import Settings
from tests.database.test_pool import PGBOUNCER, pooler

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


def authority(folder: Path, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate authority, whose certificate is `name`.pem in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / f"{name}.pem").write_bytes(pem)
    return certificate, key


def issue(folder: Path, authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey]) -> None:
    """Writes server.pem and server.key for 127.0.0.1 to `folder`."""
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(issuer.not_valid_before_utc)
        .not_valid_after(issuer.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "server.key").write_bytes(encoded)


@pytest.fixture
async def encrypted(database: str, tmp_path: Path) -> AsyncIterator[str]:
    """A server at 127.0.0.1 that accepts only TLS, with the certificates in `tmp_path`.

    It may run as another account, which each start of pytest keeps out of the folders of pytest.
    """
    issue(tmp_path, authority(tmp_path, "ours"))
    authority(tmp_path, "other")
    with shared_folder(None) as folder:
        tls = {"key_file": "server.key", "cert_file": "server.pem"}
        for name in tls.values():
            shutil.copy(tmp_path / name, folder)
            (folder / name).chmod(0o644)
        more = {f"client_tls_{name}": str(folder / file) for name, file in tls.items()}
        async with pooler(database, client_tls_sslmode="allow", **more) as url:
            yield url


async def connects(url: str) -> tuple[bool, bool]:
    """Whether asyncpg connects, and whether libpq connects."""
    settings = Settings(database_url=url, jwt_secret="", statement_cache_size=0)
    try:
        await (await connect(settings)).close()
        first = True
    except Unavailable:
        first = False
    libpq = psycopg.conninfo.make_conninfo(**database_url.read(url).libpq)
    try:
        await asyncio.to_thread(lambda: psycopg.connect(libpq).close())
    except psycopg.OperationalError:
        return first, False
    return first, True


@pytest.mark.parametrize(
    ("query", "does"),
    [
        ("", True),
        ("sslmode=disable", True),
        ("sslmode=allow", True),
        ("sslmode=prefer", True),
        ("sslmode=require", True),
        ("ssl=true", True),
        ("sslmode=require&channel_binding=prefer&gssencmode=disable", True),
        ("sslmode=require&sslrootcert={0}/other.pem", False),
        ("sslmode=verify-ca&sslrootcert={0}/ours.pem", True),
        ("sslmode=verify-ca&sslrootcert={0}/other.pem", False),
        ("sslmode=verify-full&sslrootcert={0}/ours.pem", True),
        ("sslmode=verify-full&sslrootcert={0}/other.pem", False),
        ("sslmode=require&ssl_min_protocol_version=TLSv1.3", True),
        ("sslmode=require&ssl_max_protocol_version=TLSv1.2", True),
    ],
)
async def test_both_drivers_treat_a_url_the_same(
    encrypted: str, tmp_path: Path, query: str, does: bool
) -> None:
    assert await connects(f"{encrypted}?{query.format(tmp_path)}") == (does, does)


@pytest.mark.parametrize(("name", "does"), [("ours", True), ("other", False)])
async def test_the_systems_certificates_are_trusted_by_both(
    encrypted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, does: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / f"{name}.pem"))
    url = f"{encrypted}?sslmode=verify-full&sslrootcert=system"
    assert await connects(url) == (does, does)


async def test_a_certificate_for_another_name_is_refused(encrypted: str, tmp_path: Path) -> None:
    url = encrypted.replace("127.0.0.1", "localhost")
    full, only = (
        f"{url}?sslmode={mode}&sslrootcert={tmp_path}/ours.pem"
        for mode in ("verify-full", "verify-ca")
    )
    assert await connects(full) == (False, False)
    assert await connects(only) == (True, True)
