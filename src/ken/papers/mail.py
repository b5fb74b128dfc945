"""Mail by SMTP: which server, which addresses, and what to say when it does not work."""

from __future__ import annotations

import os
import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime, make_msgid
from types import TracebackType
from typing import Literal, get_args

from pydantic import Field

from ken.core.errors import BadInput, KenError
from ken.core.frozen import Frozen

Security = Literal["starttls", "tls", "none"]

PASSWORD = "KEN_SMTP_PASSWORD"
"""The variable that holds the password: it stands in no file and on no command line."""

PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}


class MailError(KenError):
    """The mail server cannot be reached, refuses to talk to us, or broke off."""


class Refused(MailError):
    """The server does not take this mail, or not for this recipient; it may take others."""


class Smtp(Frozen):
    """A server that takes our mail.

    port: None takes that of `security`. security: "starttls" and "tls" check the server's certificate; "none" sends in
    clear. sender: the address in From. url: the public address of the web pages, for links; "" if there are none.
    """

    host: str = Field(min_length=1)
    sender: str
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str = ""
    security: Security = "starttls"
    url: str = ""


def settings(
    *, host: str, sender: str, port: int | None = None, user: str = "", security: str = "starttls", url: str = ""
) -> Smtp:
    """Checked settings. Raises `BadInput` for what is missing, cannot be meant, or would show a password."""
    if not host or not sender:
        raise BadInput(
            "mail needs a server and a sender; give --host HOST --sender ADDRESS, or set host and sender under "
            "[papers.digest] in ken.toml"
        )
    if security not in get_args(Security):
        raise BadInput(f"--security {security!r} is none of {', '.join(get_args(Security))}")
    if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+", host):  # a name, or an address of IPv4 or IPv6
        raise BadInput(f"--host {host!r} is no name of a server; it looks like smtp.example.org")
    if url and not re.fullmatch(r"https?://[^\s\"'<>?#]+", url):
        raise BadInput(f"--url {url!r} is no address of a web server; it looks like https://ken.example.org")
    if security == "none" and user and host not in ("localhost", "127.0.0.1", "::1"):
        raise BadInput(f"--security none would send the password to {host} in clear; use starttls or tls")
    return Smtp(host=host, sender=address(sender), port=port, user=user, security=security, url=url.rstrip("/"))


def password(smtp: Smtp) -> str:
    """The password of the environment, "" where none is needed. Raises `BadInput` where one is missing."""
    if not smtp.user:
        return ""
    if not (secret := os.environ.get(PASSWORD, "")):
        raise BadInput(f"the mail server wants {smtp.user}'s password; set it in ${PASSWORD}")
    return secret


def address(text: str) -> str:
    """A mail address that is one, its domain in the letters that mail travels in (RFC 5321, 4.1.2 and 4.5.3.1).

    Quoted names and those of other letters than ASCII are refused, as hardly any server takes them; and so is what
    could become a second header. Raises `BadInput`.
    """
    local, _, domain = text.strip().rpartition("@")
    with suppress(UnicodeError):
        domain = domain.encode("idna").decode().lower() if not domain.isascii() else domain.lower()
    label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    atom = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
    if (
        len(local) > 64
        or len(local) + len(domain) > 253
        or not re.fullmatch(rf"{atom}(\.{atom})*", local)
        or not re.fullmatch(rf"{label}(\.{label})*", domain)
    ):
        raise BadInput(f"{text[:100]!r} is no mail address; it looks like name@example.org")
    return f"{local}@{domain}"


def letter(*, to: str, sender: str, subject: str, text: str, html: str = "", **headers: str) -> EmailMessage:
    """A mail of `text`, and of the same as `html` if there is any, with a date and a Message-ID unless one is given.

    headers: further ones, `_` for `-` in their names.
    Addresses are checked ones. Raises `BadInput` for a header with a line break: it would begin another.
    """
    headers = {"Date": format_datetime(localtime()), **headers}
    headers.setdefault("Message_ID", make_msgid(domain=sender.rpartition("@")[2]))
    mail = EmailMessage(policy=SMTP.clone(max_line_length=998))  # links in headers stay in one piece
    try:
        mail["From"], mail["To"], mail["Subject"] = sender, to, subject
        for name, value in headers.items():
            mail[name.replace("_", "-")] = value
    except ValueError as error:
        raise BadInput(f"a header of a mail cannot be written ({error})") from error
    mail["Auto-Submitted"] = "auto-generated"  # nobody's holiday note answers it (RFC 3834)
    mail.set_content(text, cte="quoted-printable")
    if html:
        mail.add_alternative(html, subtype="html", cte="quoted-printable")
    return mail


class Mailer:
    """A connection to the server of `smtp`, opened when it is first needed and anew when the server has closed it.

    timeout: seconds for every reply. The password is that of the environment.
    """

    def __init__(self, smtp: Smtp, *, timeout: float = 30.0) -> None:
        self.smtp, self._timeout = smtp, timeout
        self._connection: smtplib.SMTP | None = None

    def __enter__(self) -> Mailer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(smtplib.SMTPException, OSError):
                connection.quit()

    def send(self, mail: EmailMessage) -> None:
        """Hand a mail to the server, which has taken it when this returns.

        Raises `Refused` when it does not take this one, `MailError` when nothing can be sent.
        """
        fresh = self._connection is None
        with _explained(self.smtp):
            if self._connection is None:
                self._connection = self._connect()
            try:
                self._connection.send_message(mail, self.smtp.sender, [mail["To"]])
            except smtplib.SMTPServerDisconnected:
                self._connection = None
                if fresh:
                    raise
                # Servers close connections that were idle or carried enough. A server that has taken a mail without
                # saying so sees its Message-ID again.
                self._connection = self._connect()
                self._connection.send_message(mail, self.smtp.sender, [mail["To"]])

    def _connect(self) -> smtplib.SMTP:
        smtp = self.smtp
        secret = password(smtp)
        port = smtp.port or PORTS[smtp.security]
        if smtp.security == "tls":
            connection: smtplib.SMTP = smtplib.SMTP_SSL(
                smtp.host, port, timeout=self._timeout, context=ssl.create_default_context()
            )
        else:
            connection = smtplib.SMTP(smtp.host, port, timeout=self._timeout)
        try:
            if smtp.security == "starttls":
                connection.starttls(context=ssl.create_default_context())
            if smtp.user:
                connection.login(smtp.user, secret)
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def _explained(smtp: Smtp) -> Iterator[None]:
    """Turn what a mail server does into one sentence that says what to do."""
    server = f"{smtp.host} port {smtp.port or PORTS[smtp.security]}"
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        code, reason = next(iter(error.recipients.values()))
        raise Refused(f"{server} does not take mail for it ({code} {_said(reason)})") from error
    except smtplib.SMTPSenderRefused as error:
        problem = f"{error.smtp_code} {_said(error.smtp_error)}"
        raise MailError(f"{server} does not take mail from {smtp.sender} ({problem}); set another sender") from error
    except smtplib.SMTPAuthenticationError as error:
        problem = f"{error.smtp_code} {_said(error.smtp_error)}"
        raise MailError(f"{server} refuses {smtp.user}'s password ({problem}); check user and ${PASSWORD}") from error
    except smtplib.SMTPDataError as error:
        raise Refused(f"{server} refuses the mail ({error.smtp_code} {_said(error.smtp_error)})") from error
    except smtplib.SMTPNotSupportedError as error:
        what = "STARTTLS" if "STARTTLS" in str(error) else "any login"
        advice = "use security tls, or none on this machine" if what == "STARTTLS" else "leave out the user"
        raise MailError(f"{server} does not offer {what}; {advice}") from error
    except ssl.SSLCertVerificationError as error:
        raise MailError(
            f"{server} shows a certificate that cannot be trusted ({error.verify_message}); check the host's name, or "
            "name its authority's file in $SSL_CERT_FILE"
        ) from error
    except ssl.SSLError as error:
        problem = error.reason or str(error)
        raise MailError(f"{server} does not speak TLS ({problem}); use security starttls, or another port") from error
    except smtplib.SMTPException as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise MailError(f"{server} broke off ({problem}); try again later") from error
    except OSError as error:
        problem = error.strerror or str(error) or type(error).__name__
        raise MailError(f"no mail server answers at {server} ({problem}); check host and port") from error


def _said(reply: bytes | str) -> str:
    text = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
    return " ".join(text.split())[:200]
