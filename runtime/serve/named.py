"""The labels of a guard that an unsafe verdict names."""

from ..describe import labels_of
from ..format.manifest import Label, Manifest
from ..openai_scores import names_category
from ..verdict import Verdict


def named(manifest: Manifest, verdict: Verdict) -> list[Label]:
    """The labels that name what is unsafe, field by field; none for a safe verdict."""
    if verdict.safe:
        return []
    names: list[Label] = []
    labels = labels_of(manifest)
    for field, answer in verdict.fields.items():
        if answer is not None:
            judges = any(label.severity != "safe" for label in labels[field])
            names += [label for label in labels[field] if label.name == answer.label and names_category(label, judges)]
    return names
