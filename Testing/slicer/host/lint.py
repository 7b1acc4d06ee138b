"""What can be read off the source of a scripted module without running it. Every finding is a line "file:line: text".

Slicer's Python is forgiving in the wrong places: a mistyped parameter is silently accepted, a wrong signal only returns
False, an invisible member shows when its button is pressed. So each such use is checked here against the .ui file, the
contract and the parameter class.
"""

import ast
import functools
import pathlib
import re
import xml.etree.ElementTree as ElementTree

from PySide6 import QtCore, QtGui, QtWidgets

from . import contract
from .facade import QT6_ONLY

QT_WIDGETS = {
    "QWidget",
    "QFrame",
    "QGroupBox",
    "QPushButton",
    "QToolButton",
    "QCheckBox",
    "QComboBox",
    "QSpinBox",
    "QDoubleSpinBox",
    "QLabel",
    "QProgressBar",
    "QPlainTextEdit",
    "QLineEdit",
    "QTabWidget",
}
SLICER_WIDGETS = {"qMRMLWidget", "ctkCollapsibleButton", "qMRMLNodeComboBox", "ctkSliderWidget", "ctkPathLineEdit"}
WRAPPER_MEMBERS = {
    "parameterNode",
    "allParameters",
    "connectGui",
    "connectParametersToGui",
    "disconnectGui",
    "getValue",
    "setValue",
    "default",
    "isCached",
    "dataType",
}
PARAMETERS = "the parameter class"
PARAMETER_NAMES = {"_parameterNode", "parameterNode", "parameters", "_parameters"}
# What a call of this name returns, in Slicer's classes
RETURNS = {
    "layoutManager": "qSlicerLayoutManager",
    "sliceWidget": "qMRMLSliceWidget",
    "threeDWidget": "qMRMLThreeDWidget",
    "sliceView": "qMRMLSliceView",
    "threeDView": "qMRMLThreeDView",
    "ioManager": "qSlicerIOManager",
    "sliceController": "qMRMLSliceControllerWidget",
    "coreIOManager": "qSlicerCoreIOManager",
    "threeDController": "qMRMLThreeDViewControllerWidget",
    "moduleManager": "qSlicerModuleManager",
}
TEXT_ATTRIBUTES = {
    "text",
    "toolTip",
    "title",
    "windowTitle",
    "placeholderText",
    "statusTip",
    "whatsThis",
    "helpText",
    "acknowledgementText",
    "plainText",
}
TEXT_CALLS = {
    "setText",
    "setToolTip",
    "setWindowTitle",
    "setTitle",
    "setStatusTip",
    "setPlainText",
    "setTabText",
    "appendPlainText",
    "addItem",
    "addItems",
    "setPlaceholderText",
    "errorDisplay",
    "warningDisplay",
    "infoDisplay",
    "messageBox",
    "confirmOkCancelDisplay",
    "confirmYesNoDisplay",
    "confirmRetryCloseDisplay",
    "tryWithErrorDisplay",
    "showStatusMessage",
    "showError",
    "confirm",
    "chooseFile",
    "chooseFolder",
    "chooseSaveFile",
    "createProgressDialog",
}
NO_WORDS = re.compile(
    r"<[^>]*(>|$)|^[^<>]*>|\{[^}]*\}|\S*[.*/]\w+\S*"
)  # tags, also broken ones, placeholders, file names
FORBIDDEN_MODULES = {"imp", "distutils"}
FORBIDDEN_MEMBERS = {
    "QTextCodec": "is gone in Qt 6",
    "QRegExp": "is gone in Qt 6",
    "exec_": "is gone in Qt 6, use exec",
    "QTest": "is not in PythonQt",
}


def lintModule(folder):
    """Findings in all .py and .ui files of a module's folder."""
    folder = pathlib.Path(folder)
    sources = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
    members = set().union(*(parameterMembers(tree) for tree in sources.values()))
    widgets, findings = {}, []
    for path in sorted(folder.rglob("*.ui")):
        widgets |= widgetClasses(path)
        findings += lintUi(path, members)
    for path, tree in sources.items():
        if "Testing" not in path.relative_to(folder).parts:
            isServices = path.name == "services.py"
            found = SourceLint(tree, widgets, members, isServices).findings
            findings += [f"{path.relative_to(folder)}:{line}: {text}" for line, text in sorted(set(found))]
    return findings


# ---------------------------------------------------------------- .ui files


def widgetClasses(path):
    """{objectName: class name} of a .ui file; actions too."""
    root = ElementTree.parse(path).getroot()
    named = {w.get("name"): w.get("class") for w in root.iter("widget")}
    return named | {a.get("name"): "QAction" for a in root.iter("action")}


def lintUi(path, members):
    root, name = ElementTree.parse(path).getroot(), pathlib.Path(path).name
    classes, findings = widgetClasses(path), []
    for widget in root.iter("widget"):
        if widget.get("class") not in QT_WIDGETS | SLICER_WIDGETS:
            findings.append(
                f"{name}: {widget.get('name')} is a {widget.get('class')}, which is not on the list of widgets"
            )
        known = classMembers(widget.get("class"))
        for prop in widget.findall("property"):
            bound = prop.findtext("string")
            if prop.get("name") == "SlicerParameterName":
                if bound not in members:
                    findings.append(f"{name}: {widget.get('name')} is bound to '{bound}', which is not a parameter")
            elif known is not None and prop.get("stdset") != "0" and prop.get("name") not in known[0]:
                findings.append(
                    f"{name}: {widget.get('class')} {widget.get('name')} has no property {prop.get('name')}"
                )
    names = [w.get("name") for w in root.iter("widget")]
    findings += [f"{name}: two widgets are called {n}" for n in sorted({n for n in names if names.count(n) > 1})]
    for connection in root.iter("connection"):
        ends = {part.tag: part.text for part in connection}
        for end, member, kind in (("sender", "signal", "signal"), ("receiver", "slot", "slot")):
            cls = classes.get(ends[end])
            if cls is None or not _hasMethod(cls, ends[member], kind):
                findings.append(f"{name}: connection of {ends[end]} ({cls}): no {kind} {ends[member]}")
    return findings


def _hasMethod(className, signature, kind):
    if contract.normalised(signature) in (contract.signals if kind == "signal" else contract.slots)(className):
        return True
    qtClass = _qtClass(className)
    meta = qtClass.staticMetaObject if qtClass else None
    plain = bytes(QtCore.QMetaObject.normalizedSignature(signature)).decode()
    return bool(meta) and (meta.indexOfSignal(plain) if kind == "signal" else meta.indexOfSlot(plain)) >= 0


# ---------------------------------------------------------------- classes


def _qtClass(className):
    base = contract.lineage(className)[1]
    return next((getattr(m, base) for m in (QtWidgets, QtCore, QtGui) if hasattr(m, base)), None)


@functools.cache
def classMembers(className):
    """({property: writable}, {signal name: signatures}, method names) as PythonQt shows them; None if unknown."""
    qtClass = _qtClass(className)
    if qtClass is None:
        return None
    meta = qtClass.staticMetaObject
    properties = {meta.property(i).name(): meta.property(i).isWritable() for i in range(meta.propertyCount())}
    properties |= {"name": True} | contract.properties(className)
    signatures = {
        bytes(meta.method(i).methodSignature()).decode()
        for i in range(meta.methodCount())
        if meta.method(i).methodType() == QtCore.QMetaMethod.Signal
    } | contract.signals(className)
    signals = {}
    for signature in signatures:
        signals.setdefault(signature.split("(")[0], set()).add(contract.normalised(signature))
    methods = {n for n in dir(qtClass) if not n.startswith("_")} | contract.methods(className) | {"className", "delete"}
    if className in contract.CLASSES:
        methods |= contract.visible(className)
    return properties, signals, methods - set(signals) - set(properties) - QT6_ONLY


def parameterMembers(tree):
    """Names of the members of every class decorated with parameterNodeWrapper."""
    return {
        statement.target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("parameterNodeWrapper" in ast.unparse(d) for d in node.decorator_list)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }


# ---------------------------------------------------------------- Python files


def _name(node):
    """The last name of `a.b.c` or of `c`; "" for other expressions."""
    return getattr(node, "attr", getattr(node, "id", ""))


class SourceLint:
    def __init__(self, tree, widgets, members, isServices):
        self.widgets, self.members, self.findings = widgets, members, []
        self.parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        self.typed = {}  # (function, variable) -> class names
        self.aliases(tree)
        for node in ast.walk(tree):
            self.imports(node)
            self.texts(node)
            if isinstance(node, ast.Attribute):
                self.member(node)
                self.parameter(node)
                if node.attr == "app" and ast.unparse(node.value) == "slicer" and not isServices:
                    self.say(node, "slicer.app belongs into services.py")
                if node.attr in FORBIDDEN_MEMBERS:
                    self.say(node, f"{node.attr} {FORBIDDEN_MEMBERS[node.attr]}")
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    if isinstance(base, ast.Attribute) and ast.unparse(base.value) in ("qt", "ctk"):
                        self.say(node, f"class {node.name}: Qt classes cannot be safely subclassed in PythonQt")

    def say(self, node, text):
        self.findings.append((node.lineno, text))

    # ---- which class has an expression

    def function(self, node):
        while node in self.parents and not isinstance(node, ast.FunctionDef | ast.Lambda):
            node = self.parents[node]
        return node

    def aliases(self, tree):
        """Local names for widgets and views: `x = self.ui.y`, `for x in (self.ui.y, self.ui.z)`, `x = view()`."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                pairs = [(node.targets[0], node.value)]
            elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple | ast.List):
                pairs = [(node.target, element) for element in node.iter.elts]
            else:
                continue
            for target, value in pairs:
                if (
                    isinstance(target, ast.Tuple)
                    and isinstance(value, ast.Tuple)
                    and len(target.elts) == len(value.elts)
                ):
                    pairs += list(zip(target.elts, value.elts, strict=True))
                elif isinstance(target, ast.Name):
                    self.typed.setdefault((self.function(node), target.id), set()).update(self.classes(value) or {None})

    def classes(self, node):
        """Names of the classes that an expression may have; empty for unknown."""
        if isinstance(node, ast.Name):
            if node.id in PARAMETER_NAMES and node.id not in self.imported:
                return {PARAMETERS}
            found = self.typed.get((self.function(node), node.id), set())
            return set() if None in found else found
        if _name(node) in PARAMETER_NAMES and isinstance(node, ast.Attribute):
            return {PARAMETERS}
        if isinstance(node, ast.Attribute):
            if self.isUi(node.value):
                return {self.widgets[node.attr]} if node.attr in self.widgets else set()
            return {"qSlicerApplication"} if ast.unparse(node) == "slicer.app" else set()
        if isinstance(node, ast.Call):
            name = _name(node.func)
            return {RETURNS[name]} if name in RETURNS else set()
        return set()

    @staticmethod
    def isUi(node):
        return _name(node) in ("ui", "_ui")

    # ---- members of widgets and views

    def member(self, node):
        if self.isUi(node.value) and self.widgets and node.attr not in self.widgets and not node.attr.startswith("__"):
            self.say(node, f"ui.{node.attr}: there is no such widget")
        for cls in self.classes(node.value) - {PARAMETERS}:
            known = classMembers(cls)
            if known is not None:
                self.use(node, cls, *known)

    def use(self, node, cls, properties, signals, methods):
        owner, name, parent = ast.unparse(node.value), node.attr, self.parents[node]
        called = isinstance(parent, ast.Call) and parent.func is node
        if name in properties:
            if called:
                self.say(node, f"{owner}.{name}(): '{name}' is a property of {cls}, it cannot be called")
            elif isinstance(node.ctx, ast.Store) and not properties[name]:
                self.say(node, f"{owner}.{name}: this property of {cls} cannot be set")
        elif isinstance(node.ctx, ast.Store):
            self.say(node, f"{owner}.{name}: {cls} has no such property to set")
        elif name in ("connect", "disconnect"):
            signature = (
                parent.args[0].value if called and parent.args and isinstance(parent.args[0], ast.Constant) else None
            )
            if isinstance(signature, str):
                plain = contract.normalised(signature)
                if plain not in signals.get(plain.split("(")[0], ()):
                    self.say(node, f"{owner}.connect('{signature}'): {cls} has no such signal")
        elif name in methods:
            passed = isinstance(parent, ast.Call | ast.keyword | ast.Tuple | ast.List)
            if not called and not passed and name[0].islower():
                self.say(node, f"{owner}.{name}: a method of {cls} that is not called")
        elif name not in signals:
            self.say(node, f"{owner}.{name}: {cls} has no member of this name that Python can see")

    # ---- parameters

    def parameter(self, node):
        known = node.attr in self.members | WRAPPER_MEMBERS or node.attr[0].isupper() or node.attr.startswith("__")
        if self.members and not known and PARAMETERS in self.classes(node.value):
            self.say(node, f"{ast.unparse(node)}: not a parameter; Slicer would silently accept it")

    # ---- texts

    def texts(self, node):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Attribute) and target.attr in TEXT_ATTRIBUTES:
                    self.translated(node.value)
                if isinstance(target, ast.Name | ast.Tuple) and "_" in self.imported:
                    self.shadowed(target)
        elif isinstance(node, ast.For | ast.comprehension) and "_" in self.imported:
            self.shadowed(node.target)
        elif isinstance(node, ast.Call):
            name = _name(node.func)
            if name in TEXT_CALLS:
                for argument in node.args[:1] if name.startswith("choose") else node.args:
                    self.translated(argument)
            if name in ("_", "tr", "translate") and not (
                len(node.args) == 1 + (name == "translate")
                and all(isinstance(a, ast.Constant) and isinstance(a.value, str) for a in node.args)
            ):
                self.say(node, f"{ast.unparse(node)[:60]}: only a plain literal can be translated; format it outside")

    def shadowed(self, target):
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and node.id == "_":
                self.say(node, "_ is the translation, a variable must not hide it")

    def translated(self, node):
        """Report texts with words that do not pass through _()."""
        if isinstance(node, ast.Call):
            function = _name(node.func)
            if function in ("format", "join"):
                self.translated(node.func.value)
            return
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and re.search(r"[A-Za-z]{2}", NO_WORDS.sub("", node.value)):
                self.say(node, f"{node.value[:40]!r} is shown to the user but not translated: _(...)")
            return
        for child in ast.iter_child_nodes(node):
            if not isinstance(node, ast.Subscript | ast.Compare | ast.FormattedValue | ast.Attribute):
                self.translated(child)

    # ---- imports

    def imports(self, node):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES:
                self.say(node, f"module {name} is gone from Python 3.12")
