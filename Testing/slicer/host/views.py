"""Views of the application stand-in: Slicer's slice and 3D views without Qt.

Nodes, logics, displayable managers, interactor styles and rendering are Slicer's own (slicer-core); only the widgets
around them are replaced. The classes show nothing that PythonQt does not show in Slicer, except `resize` and
`picture`, which stand for the window and for looking at it. A view draws when it is told to (`forceRender`).
"""

import numpy as np
import slicer
import vtk
from vtkmodules.util.numpy_support import vtk_to_numpy

SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLScalarBarDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
)
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager3D",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager3D",
    "vtkMRMLLinearTransformsDisplayableManager",
)


def registerDisplayableManagers(applicationLogic):
    """Tell Slicer's factories what draws in slice and in 3D views; to be done before the first view."""
    for factory, names in (
        (slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS),
        (slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREE_D_MANAGERS),
    ):
        factory.SetMRMLApplicationLogic(applicationLogic)
        for name in names:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)


def _grabbed(window):
    """What a render window shows: (height, width, 3) uint8."""
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.SetInputBufferTypeToRGB()
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _one = image.GetDimensions()
    return np.flipud(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)).copy()


class _View:
    """A render window with a corner annotation (ctkVTKAbstractView)."""

    def __init__(self, factory, style):
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())  # only Slicer's own observer acts
        self._interactor.Initialize()
        self._annotation = vtk.vtkCornerAnnotation()
        self._annotation.SetMaximumLineHeight(0.07)
        self._annotation.GetTextProperty().ShadowOn()
        self._renderer.AddViewProp(self._annotation)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(factory, self._renderer)
        self._style = style
        self._style.SetDisplayableManagers(self._group)
        self._style.SetInteractor(self._interactor)

    def renderWindow(self):
        return self._window

    def interactor(self):
        return self._interactor

    def interactorObserver(self):
        return self._style

    def cornerAnnotation(self):
        return self._annotation

    def displayableManagerByClassName(self, name):
        return self._group.GetDisplayableManagerByClassName(name)

    def scheduleRender(self):
        """In Slicer a timer draws soon after; here `forceRender` does when called."""

    def forceRender(self):
        self._window.Render()

    def picture(self):
        """What the view shows now: (height, width, 3) uint8."""
        self.forceRender()
        return _grabbed(self._window)

    def _end(self):
        self._style.SetInteractor(None)
        self._group.SetMRMLDisplayableNode(None)
        self._window.Finalize()


class SliceView(_View):
    """qMRMLSliceView."""

    def __init__(self, node, logic):
        self._logic = logic
        super().__init__(
            slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), slicer.vtkMRMLSliceViewInteractorStyle()
        )
        self._style.SetSliceLogic(logic)
        self._mapper = vtk.vtkImageMapper()  # the logic's image has its window and level applied already
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._image = vtk.vtkActor2D()
        self._image.SetMapper(self._mapper)
        self._image.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._image)
        self._group.SetMRMLDisplayableNode(node)
        self._node = node

    def mrmlSliceNode(self):
        return self._node

    def forceRender(self):
        connection = self._logic.GetImageDataConnection()
        self._image.SetVisibility(connection is not None)
        self._mapper.SetInputConnection(connection)
        super().forceRender()


class ThreeDView(_View):
    """qMRMLThreeDView."""

    def __init__(self, node):
        super().__init__(
            slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), slicer.vtkMRMLThreeDViewInteractorStyle()
        )
        self._renderer.GradientBackgroundOn()
        self._group.SetMRMLDisplayableNode(node)
        self._node = node
        self._style.SetCameraNode(self.cameraNode())

    def mrmlViewNode(self):
        return self._node

    def cameraNode(self):
        return self.displayableManagerByClassName("vtkMRMLCameraDisplayableManager").GetCameraNode()

    def rotateToViewAxis(self, axis):
        """0 right, 1 left, 2 posterior, 3 anterior, 4 inferior, 5 superior."""
        self.cameraNode().RotateTo(axis)

    def resetFocalPoint(self):
        """Look at the centre of what is seen; the eye stays where it is."""
        box, labels = self._node.GetBoxVisible(), self._node.GetAxisLabelsVisible()
        self._node.SetBoxVisible(False)
        self._node.SetAxisLabelsVisible(False)
        low_high = self._renderer.ComputeVisiblePropBounds()
        self._node.SetBoxVisible(box)
        self._node.SetAxisLabelsVisible(labels)
        if low_high[0] <= low_high[1]:
            self._renderer.GetActiveCamera().SetFocalPoint(*(np.add(low_high[0::2], low_high[1::2]) / 2))
            self._renderer.ResetCameraClippingRange()

    def resetCamera(self, resetRotation=True, resetTranslation=True, resetDistance=True):
        self.cameraNode().Reset(resetRotation, resetTranslation, resetDistance, self._renderer)

    def forceRender(self):
        self._renderer.SetBackground(self._node.GetBackgroundColor())
        self._renderer.SetBackground2(self._node.GetBackgroundColor2())
        super().forceRender()


class PlotView:
    """qMRMLPlotView: draws the chart of its node with VTK's own charts, anew each time."""

    def __init__(self, node):
        self._node = node
        self._view = vtk.vtkContextView()
        self._view.GetRenderWindow().SetOffScreenRendering(1)
        self._view.GetRenderWindow().SetMultiSamples(0)
        self._view.GetRenderer().SetBackground(1.0, 1.0, 1.0)

    def mrmlPlotViewNode(self):
        return self._node

    def _draw(self):
        self._view.GetScene().ClearItems()
        chartNode = self._node.GetPlotChartNode()
        if chartNode is None:
            return
        chart = vtk.vtkChartXY()
        self._view.GetScene().AddItem(chart)
        chart.SetTitle(chartNode.GetTitle())
        chart.SetShowLegend(True)
        chart.GetLegend().SetLabelSize(10)
        chart.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(chartNode.GetXAxisTitle())
        chart.GetAxis(vtk.vtkAxis.LEFT).SetTitle(chartNode.GetYAxisTitle())
        chart.GetAxis(vtk.vtkAxis.LEFT).SetLogScale(chartNode.GetYAxisLogScale())
        for index in range(chartNode.GetNumberOfPlotSeriesNodes()):
            series = chartNode.GetNthPlotSeriesNode(index)
            plot = chart.AddPlot(vtk.vtkChart.LINE)
            plot.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
            plot.SetLabel(series.GetName())
            plot.SetColorF(*series.GetColor())
            plot.SetWidth(series.GetLineWidth())
            dashed = series.GetLineStyle() == series.LineStyleDash
            plot.GetPen().SetLineType(vtk.vtkPen.DASH_LINE if dashed else vtk.vtkPen.SOLID_LINE)
            plot.SetMarkerStyle(vtk.vtkPlotPoints.CIRCLE if series.GetMarkerStyle() != series.MarkerStyleNone else 0)
            plot.SetMarkerSize(series.GetMarkerSize())
        chart.RecalculateBounds()

    def picture(self):
        """What the view shows now: (height, width, 3) uint8."""
        self._draw()
        self._view.GetRenderWindow().Render()
        return _grabbed(self._view.GetRenderWindow())


class PlotWidget:
    """qMRMLPlotWidget."""

    def __init__(self, node, applicationLogic):
        self._view = PlotView(node)

    def plotView(self):
        return self._view

    def mrmlPlotViewNode(self):
        return self._view.mrmlPlotViewNode()

    def resize(self, width, height):
        self._view._view.GetRenderWindow().SetSize(width, height)

    def _end(self):
        self._view._view.GetRenderWindow().Finalize()


class SliceWidget:
    """qMRMLSliceWidget."""

    def __init__(self, node, applicationLogic):
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(applicationLogic)
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetSliceNode(node)
        applicationLogic.GetSliceLogics().AddItem(self._logic)
        self._collection = applicationLogic.GetSliceLogics()
        self._view = SliceView(node, self._logic)

    def sliceLogic(self):
        return self._logic

    def sliceView(self):
        return self._view

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()

    def resize(self, width, height):
        self._view.renderWindow().SetSize(width, height)
        self._logic.ResizeSliceNode(width, height)

    def _end(self):
        self._view._end()
        self._collection.RemoveItem(self._logic)
        self._logic.SetSliceNode(None)
        self._logic.SetMRMLScene(None)


class ThreeDWidget:
    """qMRMLThreeDWidget."""

    def __init__(self, node, applicationLogic):
        self._logic = slicer.vtkMRMLViewLogic()
        self._logic.SetMRMLApplicationLogic(applicationLogic)
        self._logic.SetMRMLScene(node.GetScene())
        self._logic.SetName(node.GetLayoutName())  # by which it finds its node
        applicationLogic.GetViewLogics().AddItem(self._logic)
        self._collection = applicationLogic.GetViewLogics()
        self._view = ThreeDView(node)

    def viewLogic(self):
        return self._logic

    def threeDView(self):
        return self._view

    def mrmlViewNode(self):
        return self._view.mrmlViewNode()

    def resize(self, width, height):
        self._view.renderWindow().SetSize(width, height)

    def _end(self):
        self._view._end()
        self._collection.RemoveItem(self._logic)
        self._logic.SetMRMLScene(None)
