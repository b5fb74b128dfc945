"""The boundary audit: run it, measure it, report it, compare two."""

from ken.auditing.api import audit, rescore
from ken.auditing.compare import Comparison, compare_audits
from ken.auditing.folder import AuditSettings
from ken.auditing.frame import load_audit
from ken.auditing.measure import measure
from ken.auditing.report import AuditReport
from ken.auditing.run import Progress

__all__ = [
    "AuditReport",
    "AuditSettings",
    "Comparison",
    "Progress",
    "audit",
    "compare_audits",
    "load_audit",
    "measure",
    "rescore",
]
