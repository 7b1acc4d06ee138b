"""What Python sees of Slicer's and CTK's own Qt classes: names and signatures read from their headers (contract.json).

PythonQt shows properties, signals, public slots, Q_INVOKABLE methods, enums and decorators of such a class, no more.
"""

import functools
import json
import pathlib
import re

CLASSES = json.loads(pathlib.Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))["classes"]


@functools.cache
def lineage(className):
    """The class and its bases inside the contract, and the name of the Qt class below them."""
    if className not in CLASSES:
        return (), className
    names, qtBase = [className], "QObject"
    for base in CLASSES[className]["bases"]:
        further, below = lineage(base)
        names.extend(further)
        if below != "QObject":
            qtBase = below
    return tuple(names), qtBase


@functools.cache
def properties(className):
    """{name: writable} of a class, its Qt base excepted."""
    names, _ = lineage(className)
    return {name: entry[1] for c in reversed(names) for name, entry in CLASSES[c]["properties"].items()}


@functools.cache
def signals(className):
    """Signatures without blanks, "const" and "&"."""
    return frozenset(normalised(s) for c in lineage(className)[0] for s in CLASSES[c]["signals"])


@functools.cache
def slots(className):
    return frozenset(normalised(s) for c in lineage(className)[0] for s in CLASSES[c]["slots"])


@functools.cache
def methods(className):
    """Names of what can be called: slots, Q_INVOKABLEs and decorators."""
    own = [CLASSES[c] for c in lineage(className)[0]]
    signatures = [s for c in own for s in (*c["slots"], *c["invokables"])]
    return frozenset(s.split("(")[0] for s in signatures) | {d for c in own for d in c["decorators"]}


@functools.cache
def visible(className):
    """Every member's name that Python sees, its Qt base excepted."""
    enums = {e for c in lineage(className)[0] for e in CLASSES[c]["enums"]}
    signalNames = {s.split("(")[0] for s in signals(className)}
    return frozenset(properties(className)) | methods(className) | signalNames | enums


def normalised(signature):
    return re.sub(r"\bconst\b|[\s&]", "", signature)
