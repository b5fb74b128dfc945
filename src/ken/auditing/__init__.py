"""The boundary audit: run it, measure it, report it."""

from ken.auditing.api import audit, rescore
from ken.auditing.folder import AuditSettings
from ken.auditing.frame import load_audit
from ken.auditing.measure import AuditReport, measure
from ken.auditing.run import Progress

__all__ = ["AuditReport", "AuditSettings", "Progress", "audit", "load_audit", "measure", "rescore"]
