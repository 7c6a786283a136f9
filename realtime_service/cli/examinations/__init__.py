"""What `doctor` looks at: a module for each part, which only looks and changes nothing.

Law: no finding holds a password, a token, a key, or the text of an outside error.
"""

from realtime_service.domain.finding import Finding, Severity


def good(what: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding(Severity.OK, what, found)


def odd(what: str, found: str, problem: str, advice: str) -> Finding:
    """Worth knowing."""
    return Finding(Severity.WARNING, what, found, problem, advice)


def wrong(what: str, found: str, problem: str, advice: str) -> Finding:
    """It keeps the service from working, or loses events."""
    return Finding(Severity.ERROR, what, found, problem, advice)
