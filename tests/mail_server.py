"""A real SMTP server on loopback (aiosmtpd) that keeps what it takes, and refuses or breaks off where a test says."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Protocol
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session


@dataclass
class MailServer:
    """What came in, and what is refused.

    refused: replies to recipients by address. senders: replies to senders. spam: the reply to every mail.
    drop: called with the number of mails taken so far, before one is; True breaks the connection off instead.
    hold: every mail waits here for its turn to be taken.
    """

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    senders: dict[str, str] = field(default_factory=dict)
    spam: str = ""
    encrypted: list[bool] = field(default_factory=list)
    drop: Callable[[int], bool] = lambda taken: False
    came: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    hold: threading.Semaphore | None = None
    password: str = "right"

    def to(self, address: str) -> list[EmailMessage]:
        """The mails that one recipient got."""
        return [mail for mail, to in zip(self.mails, self.recipients, strict=True) if to == address]

    async def handle_MAIL(
        self, server: Protocol, session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        if address in self.senders:
            return self.senders[address]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: Protocol, session: Session, envelope: Envelope, address: str, options: Any
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Protocol, session: Session, envelope: Envelope) -> str:
        assert server.transport is not None
        if self.drop(len(self.mails)):
            server.transport.abort()
            return "421 Goodbye"
        if self.spam:
            return self.spam
        if self.hold is not None:
            self.came.release()
            await server.loop.run_in_executor(None, self.hold.acquire)
        assert isinstance(envelope.content, bytes)
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients.extend(envelope.rcpt_tos)
        self.encrypted.append(session.ssl is not None)
        return "250 Message accepted"

    def authenticate(
        self, server: Protocol, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == self.password, handled=False)


@contextmanager
def mail_server(**options: Any) -> Iterator[MailServer]:
    """A running server. options: aiosmtpd's, such as `tls_context`."""
    kept = MailServer()
    if options.pop("login", False):
        options |= {"authenticator": kept.authenticate, "auth_required": True}
    with socket.create_server(("127.0.0.1", 0)) as free:
        kept.port = free.getsockname()[1]
    controller = Controller(kept, hostname="127.0.0.1", port=kept.port, ready_timeout=60, **options)
    controller.start()
    try:
        yield kept
    finally:
        if kept.hold is not None:
            kept.hold.release(100)
        controller.stop()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    """A server that takes everything, in clear."""
    with mail_server() as kept:
        yield kept


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, with its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        ["openssl", "req", "-x509", *key, *subject, "-keyout", str(path), "-out", str(path.with_suffix(".crt"))],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context
