"""The content scanner: personal data, credentials, key words and marks of internal documents in a call's texts.

model      hits, settings, candidates, the budget of one call
folding    characters that look like others
forms      the decoded forms of a text
allow      phrases that the settings allow
rules/     one file per group of rules
scanner    the engine over all of it
"""

from sidecar.classifiers.content.model import ContentConfig, Hit
from sidecar.classifiers.content.scanner import ContentScanner

__all__ = ["ContentConfig", "ContentScanner", "Hit"]
