"""What an unsafe verdict names, by the guard's labels."""

from ..describe import labels_of
from ..format.manifest import Label, Manifest
from ..openai_scores import names_category
from ..verdict import Verdict


def named(manifest: Manifest, verdict: Verdict) -> list[Label]:
    """The labels that say what is unsafe, field by field; of a safe verdict, none."""
    if verdict.safe:
        return []
    found: list[Label] = []
    labels = labels_of(manifest)
    for field, answer in verdict.fields.items():
        if answer is not None:
            judges = any(label.severity != "safe" for label in labels[field])
            found += [each for each in labels[field] if each.name == answer.label and names_category(each, judges)]
    return found
