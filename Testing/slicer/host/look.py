"""Slicer's light style: the Fusion style, its palette and a readable font."""

from PySide6 import QtGui, QtWidgets


def apply(application):
    application.setStyle(QtWidgets.QStyleFactory.create("Fusion"))
    palette = QtGui.QPalette()
    for role, color in {
        "Window": "#efefef",
        "Base": "#ffffff",
        "AlternateBase": "#f7f7f7",
        "Button": "#e6e6e6",
        "WindowText": "#1b1b1b",
        "Text": "#1b1b1b",
        "ButtonText": "#1b1b1b",
        "Highlight": "#308cc6",
        "HighlightedText": "#ffffff",
        "Mid": "#b8b8b8",
        "Light": "#ffffff",
        "Dark": "#9f9f9f",
        "ToolTipBase": "#ffffdc",
        "ToolTipText": "#1b1b1b",
        "PlaceholderText": "#8a8a8a",
    }.items():
        palette.setColor(getattr(QtGui.QPalette, role), QtGui.QColor(color))
    for role in ("WindowText", "Text", "ButtonText"):
        palette.setColor(QtGui.QPalette.Disabled, getattr(QtGui.QPalette, role), QtGui.QColor("#9a9a9a"))
    application.setPalette(palette)
    font = QtGui.QFont()
    font.setFamilies(["Segoe UI", "Noto Sans", "DejaVu Sans", "Liberation Sans"])
    font.setPointSizeF(9)
    application.setFont(font)
