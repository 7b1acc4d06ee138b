"""Stand-ins of Slicer's and CTK's widgets, plain PySide6 inside: same properties, signals, behaviour; similar looks."""

from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal, Slot


def stored(kind, name, default, changed=None):
    """A Qt property kept on the Python object; changed names a method called after a change."""
    attribute = f"_{name}"

    def read(self):
        return getattr(self, attribute, default)

    def write(self, value):
        if read(self) != value:
            setattr(self, attribute, value)
            if changed:
                getattr(self, changed)()

    return Property(kind, read, write)


class qMRMLWidget(QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)

    def mrmlScene(self):
        return getattr(self, "_scene", None)

    def setMRMLScene(self, scene):
        if scene is not self.mrmlScene():
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The panel's page of one module; host.modules drives it."""

    moduleName = stored(str, "moduleName", "")
    isEntered = stored(bool, "isEntered", False)

    def reload(self):
        self._reload()

    def self(self):
        return self._self()


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A title bar with an arrow; its children lie below, hidden while it is collapsed (`checked` is its opposite)."""

    contentsCollapsed = Signal(bool)
    collapsedHeight = stored(int, "collapsedHeight", 14)
    flat = stored(bool, "flat", False)

    def __init__(self, text="", parent=None):
        if isinstance(text, QtWidgets.QWidget):
            text, parent = "", text
        super().__init__(parent)
        self._collapsed, self._maximumHeight = False, self.maximumHeight()
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Minimum, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._barHeight(), 0, 0)
        self.toggled.connect(lambda checked: self._collapse(not checked))

    collapsed = Property(bool, lambda self: self._collapsed, lambda self, value: self.setChecked(not value))

    def _barHeight(self):
        return self.fontMetrics().height() + 8

    def _collapse(self, collapsed):
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        if collapsed:
            self._maximumHeight = self.maximumHeight()
            self.setMaximumHeight(self._barHeight() + self.collapsedHeight)
        else:
            self.setMaximumHeight(self._maximumHeight)
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            if collapsed:
                child.setProperty("hiddenBefore", child.isHidden())
                child.hide()
            elif not child.property("hiddenBefore"):
                child.show()
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def sizeHint(self):
        bar = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text()) + 40, self._barHeight())
        if self._collapsed or self.layout() is None:
            return bar + QtCore.QSize(0, self.collapsedHeight if self._collapsed else 0)
        return self.layout().totalSizeHint().expandedTo(bar)

    def minimumSizeHint(self):
        if self._collapsed or self.layout() is None:
            return self.sizeHint()
        return self.layout().totalMinimumSize()

    def hitButton(self, position):
        return position.y() < self._barHeight()

    def paintEvent(self, event):
        painter = QtGui.QPainter(self)
        painter.setRenderHint(QtGui.QPainter.Antialiasing)
        palette, height = self.palette(), self._barHeight()
        bar = QtCore.QRectF(0.5, 0.5, self.width() - 1, height - 1)
        painter.setPen(palette.color(QtGui.QPalette.Mid))
        painter.setBrush(palette.color(QtGui.QPalette.Button))
        painter.drawRoundedRect(bar, 3, 3)
        painter.setPen(QtCore.Qt.NoPen)
        painter.setBrush(palette.color(QtGui.QPalette.ButtonText))
        x, y = 13.0, height / 2
        arrow = [(-3, -4.5), (3, 0), (-3, 4.5)] if self._collapsed else [(-4.5, -3), (4.5, -3), (0, 3)]
        painter.drawPolygon([QtCore.QPointF(x + dx, y + dy) for dx, dy in arrow])
        painter.setPen(palette.color(QtGui.QPalette.ButtonText))
        painter.drawText(bar.adjusted(25, 0, -8, 0), QtCore.Qt.AlignLeft | QtCore.Qt.AlignVCenter, self.text())


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider and a spin box for one number (float). As in CTK the value is clamped, and the step may be any size."""

    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    tracking = stored(bool, "tracking", True)
    pageStep = stored(float, "pageStep", 1.0)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Horizontal)
        self._spinBox = QtWidgets.QDoubleSpinBox()
        self._slider.setRange(0, 10000)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._spinBox)
        self._spinBox.setMaximum(99)
        self._spinBox.valueChanged.connect(self._onSpinBox)
        self._slider.sliderMoved.connect(self._onSlider)

    def _onSpinBox(self, value):
        self._placeSlider()
        self.valueIsChanging.emit(value)
        self.valueChanged.emit(value)

    def _onSlider(self, position):
        value = self.minimum + (self.maximum - self.minimum) * position / self._slider.maximum()
        self._spinBox.setValue(self.minimum + round((value - self.minimum) / self.singleStep) * self.singleStep)

    def _placeSlider(self):
        width = self.maximum - self.minimum
        position = round(self._slider.maximum() * (self.value - self.minimum) / width) if width > 0 else 0
        self._slider.setSliderPosition(position)

    def _setBound(self, setter, bound):
        setter(bound)
        self._placeSlider()

    value = Property(float, lambda self: self._spinBox.value(), lambda self, v: self._spinBox.setValue(v))
    minimum = Property(
        float, lambda self: self._spinBox.minimum(), lambda self, v: self._setBound(self._spinBox.setMinimum, v)
    )
    maximum = Property(
        float, lambda self: self._spinBox.maximum(), lambda self, v: self._setBound(self._spinBox.setMaximum, v)
    )
    decimals = Property(int, lambda self: self._spinBox.decimals(), lambda self, v: self._spinBox.setDecimals(v))
    singleStep = Property(
        float, lambda self: self._spinBox.singleStep(), lambda self, v: self._spinBox.setSingleStep(v)
    )
    prefix = Property(str, lambda self: self._spinBox.prefix(), lambda self, v: self._spinBox.setPrefix(v))
    suffix = Property(str, lambda self: self._spinBox.suffix(), lambda self, v: self._spinBox.setSuffix(v))
    spinBoxVisible = Property(
        bool, lambda self: not self._spinBox.isHidden(), lambda self, v: self._spinBox.setVisible(v)
    )

    @Slot(float)
    def setValue(self, value):
        self._spinBox.setValue(value)

    def setDecimals(self, decimals):
        self._spinBox.setDecimals(decimals)

    def setSpinBoxVisible(self, visible):
        self._spinBox.setVisible(visible)

    def reset(self):
        self.setValue(0)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line for a path, with a browse button (which the host gives no dialog)."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    settingKey = stored(str, "settingKey", "")
    nameFilters = stored("QStringList", "nameFilters", [])
    showBrowseButton = stored(bool, "showBrowseButton", True, "_refresh")
    showHistoryButton = stored(bool, "showHistoryButton", True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._line, self._browse = QtWidgets.QLineEdit(), QtWidgets.QToolButton()
        self._browse.setText("…")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self._line)
        layout.addWidget(self._browse)
        self._line.textChanged.connect(self.currentPathChanged)

    currentPath = Property(str, lambda self: self._line.text(), lambda self, path: self._line.setText(path))

    def _refresh(self):
        self._browse.setVisible(self.showBrowseButton)

    @Slot(str)
    def setCurrentPath(self, path):
        self._line.setText(path)

    def addCurrentPathToHistory(self):
        """History is kept in the settings by CTK; the host keeps none."""
