"""The losses of a run as Slicer's tables and charts, for any plot view; they are saved with the scene."""

import slicer
import vtk
from slicer.i18n import tr as _

from AXONTrainingLib import marked, runs

LOSS, QUALITY = "AXONTrainingLoss", "AXONTrainingQuality"  # marks of charts, singleton tags of their views
PROGRESS, VALIDATION = "progress", "validation"
COLUMNS = {PROGRESS: ("step", "loss", "lr"), VALIDATION: ("step", "loss", "mae", "psnr")}
COLORS = {
    "endpoint": (0.12, 0.47, 0.71),
    "coarse": (1.0, 0.5, 0.05),
    "prior": (0.17, 0.63, 0.17),
    "control": (0.84, 0.15, 0.16),
    "super-resolution": (0.58, 0.4, 0.74),
    "distill-coarse": (0.55, 0.34, 0.29),
    "distill-fine": (0.89, 0.47, 0.76),
}


def stageTitle(stage):
    """A stage's folder in words."""
    return {
        "endpoint": _("F(x)"),
        "coarse": _("Bridge"),
        "prior": _("Prior"),
        "control": _("FineDiff"),
        "super-resolution": _("Super-resolution"),
        "distill-coarse": _("Student of the bridge"),
        "distill-fine": _("Student of FineDiff"),
    }.get(stage, stage)


def load(run):
    """Show the curves of a run's folder (or of none, None) in place of those before."""
    clear()
    for stage, events in runs.logs(run).items() if run is not None else ():
        for event in events:
            add(event, stage)


def add(event, stage=None):
    """Append one event of a training (`axon_core.training.events`); points at its step and beyond are replaced."""
    kind, stage = event.get("type"), event.get("stage", stage)
    if kind not in COLUMNS or stage not in COLORS or event.get("loss") is None:
        return
    node = _tableNode(kind, stage)
    table = node.GetTable()
    rows = table.GetNumberOfRows()
    while rows and table.GetValue(rows - 1, 0).ToDouble() >= event["step"]:  # of a run that was killed and goes on
        rows -= 1
        table.RemoveRow(rows)
    row = table.InsertNextBlankRow()
    for column, name in enumerate(COLUMNS[kind]):
        value = event.get(name)
        table.SetValue(row, column, vtk.vtkVariant(float("nan") if value is None else float(value)))
    table.Modified()
    node.Modified()


def exists():
    """Whether there are curves in the scene."""
    return bool(marked.every("vtkMRMLTableNode"))


def clear():
    """Take tables, series and charts out of the scene."""
    for kind in ("vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTableNode"):
        for node in marked.every(kind):
            slicer.mrmlScene.RemoveNode(node)


def chart(tag):
    """The chart LOSS or QUALITY, made when first asked for."""
    node = marked.find("vtkMRMLPlotChartNode", tag)
    if node is None:
        title, label = {
            LOSS: (_("Loss: training solid, held-out cases dashed"), _("loss")),
            QUALITY: (_("Held-out cases: agreement with the CT"), _("PSNR [dB]")),
        }[tag]
        node = marked.new("vtkMRMLPlotChartNode", tag, title)
        node.SetTitle(title)
        node.SetXAxisTitle(_("step"))
        node.SetYAxisTitle(label)
        node.SetYAxisLogScale(tag == LOSS)
    return node


def points(kind, stage, name="loss"):
    """(step, value) of a curve, for whoever wants numbers."""
    node = marked.find("vtkMRMLTableNode", _mark(kind, stage))
    if node is None:
        return []
    table, column = node.GetTable(), COLUMNS[kind].index(name)
    return [
        (table.GetValue(row, 0).ToDouble(), table.GetValue(row, column).ToDouble())
        for row in range(table.GetNumberOfRows())
    ]


def _mark(kind, stage, column=""):
    return f"{stage} {kind} {column}".strip()


def _tableNode(kind, stage):
    """The table of a stage, which joins its charts when it is made."""
    node = marked.find("vtkMRMLTableNode", _mark(kind, stage))
    if node is not None:
        return node
    title = stageTitle(stage)
    name = {PROGRESS: _("AXON training, {stage}"), VALIDATION: _("AXON held-out cases, {stage}")}[kind]
    node = marked.new("vtkMRMLTableNode", _mark(kind, stage), name.format(stage=title))
    for column in COLUMNS[kind]:
        values = vtk.vtkDoubleArray()
        values.SetName(column)
        node.AddColumn(values)
    _series(node, LOSS, kind, stage, "loss", title if kind == PROGRESS else _("{stage}, held out").format(stage=title))
    if kind == VALIDATION and stage != "prior":  # which aims at no CT
        _series(node, QUALITY, kind, stage, "psnr", title)
    return node


def _series(tableNode, chartTag, kind, stage, column, name):
    node = marked.new("vtkMRMLPlotSeriesNode", _mark(kind, stage, column), name)
    node.SetAndObserveTableNodeID(tableNode.GetID())
    node.SetXColumnName("step")
    node.SetYColumnName(column)
    node.SetPlotType(node.PlotTypeScatter)  # points joined by lines
    held = kind == VALIDATION
    node.SetMarkerStyle(node.MarkerStyleCircle if held else node.MarkerStyleNone)
    node.SetMarkerSize(5)
    node.SetLineStyle(node.LineStyleDash if held and chartTag == LOSS else node.LineStyleSolid)
    node.SetLineWidth(2)
    node.SetColor(*COLORS[stage])
    chart(chartTag).AddAndObservePlotSeriesNodeID(node.GetID())
