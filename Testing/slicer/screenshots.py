"""The README's pictures of the modules: drive the panel on the sample data, and draw it beside its views.

    python Testing/slicer/screenshots.py Resources/Screenshots

The panel comes from the Qt host, the views from Slicer's own MRML and VTK libraries; nothing is drawn by hand.
"""

import pathlib
import sys
import tempfile
import time

from PIL import Image, ImageDraw, ImageFont

BAR = 22  # pixels, on top of each view
BORDER, THREE_D_BAR, PLOT_BAR = (70, 72, 80), (174, 176, 226), (225, 225, 225)


def drawLayout(path):
    """Write the current layout's views as they are now to a PNG; `window` has given them their size."""
    import slicer

    places = slicer.app.layoutManager().places()
    sheet = Image.new("RGB", tuple(max(r[i] + r[i + 2] for _widget, r in places) for i in (0, 1)))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for widget, (x, y, width, _height) in places:
        if hasattr(widget, "sliceView"):
            view, node = widget.sliceView(), widget.mrmlSliceNode()
            color = tuple(round(255 * part) for part in node.GetLayoutColor())
        elif hasattr(widget, "plotView"):
            view, node, color = widget.plotView(), widget.mrmlPlotViewNode(), PLOT_BAR
        else:
            view, node, color = widget.threeDView(), widget.mrmlViewNode(), THREE_D_BAR
        sheet.paste(Image.fromarray(view.picture()), (x, y + BAR))
        draw.rectangle((x, y, x + width - 1, y + BAR - 1), fill=color)
        draw.text((x + 8, y + 3), node.GetLayoutLabel(), fill=(20, 20, 20), font=font)
    for _widget, (x, y, width, height) in places:
        draw.rectangle((x, y, x + width, y + height), outline=BORDER)
    sheet.save(path)


def window(width, height):
    """Set the size in pixels of all views together; to be done before a layout is entered, which fits to it."""
    import slicer

    slicer.app.layoutManager().resizeWindow(width, height, BAR)


def drawCompare(referenceNode, resultNode, path, size=(1440, 900)):
    """Write the compare layout with a result (marked as synthetic) beside a reference (or None) to a PNG."""
    from AXONLib.layout import CompareLayout
    from AXONLib.note import SyntheticNote

    note, compare = SyntheticNote(), CompareLayout()
    try:
        window(*size)
        compare.enter(referenceNode, resultNode)
        drawLayout(path)
    finally:
        compare.leave()
        note.stop()


PANEL_WIDTH, HEIGHT = 480, 980
VIEWS = (1180, HEIGHT)


class Desk:
    """The module, open on the host."""

    def __init__(self, module="AXONReconstruction"):
        here = pathlib.Path(__file__).resolve()
        self.root = here.parents[2]
        sys.path.insert(0, str(here.parent))
        import host

        host.start()
        import slicer
        from host import module_host

        window(*VIEWS)
        module_host.load(str(self.root / module / f"{module}.py"))
        slicer.util.selectModule(module)
        self.widget = getattr(slicer.modules, f"{module}Widget")
        self.ui = self.widget.ui

    def close(self, module):
        """Leave the module, and empty the scene."""
        import slicer
        from host import module_host

        module_host.unload(module)
        slicer.mrmlScene.Clear(0)

    def wait(self, seconds, until=lambda: False):
        """Let the event loop run until something is true; True if it became so in time."""
        import slicer

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            slicer.app.processEvents()
            if until():
                return True
            time.sleep(0.01)
        return False

    def panel(self):
        """The whole panel as a PIL picture, as long as it is."""
        page = self.widget.parent
        page.resize(PANEL_WIDTH, HEIGHT)
        page.show()
        self.wait(0.3)
        page.resize(PANEL_WIDTH, max(HEIGHT, page.sizeHint.height()))
        self.wait(0.3)
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            page.grab().save(file.name)
            return Image.open(file.name).convert("RGB").copy()

    def picture(self, path):
        """The panel beside the views."""
        panel = self.panel()
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            drawLayout(file.name)
            views = Image.open(file.name).convert("RGB").copy()
        sheet = Image.new("RGB", (panel.width + views.width, max(panel.height, views.height)), (239, 239, 239))
        sheet.paste(panel, (0, 0))
        sheet.paste(views, (panel.width, 0))
        sheet.save(path, optimize=True)

    def sections(self, *shown):
        """Open these sections of the panel and close the others."""
        for name in ("films", "registration", "reconstruct", "result", "data", "training", "model", "log"):
            if hasattr(self.ui, f"{name}Button"):
                getattr(self.ui, f"{name}Button").collapsed = name not in shown


def training(folder):
    """The pictures of AXONTraining: three drawn chests to learn from, the sample CT with its scout held out."""
    desk = Desk("AXONTraining")
    widget, ui = desk.widget, desk.ui
    from AXONTrainingLib import drawn
    from AXONTrainingLib.parameters import Budget, Preset

    samples = desk.root / "Resources" / "SampleData"
    with tempfile.TemporaryDirectory() as place:
        chests = drawn.write(pathlib.Path(place) / "chests")
        table = (chests / "manifest.csv").read_text(encoding="utf-8").replace("val", "train")
        sample = f"sample,{samples / 'acrin_042_ct.nrrd'},{samples / 'acrin_042_scout_ap.nrrd'},,val\n"
        (chests / "manifest.csv").write_text(table + sample, encoding="utf-8")
        p = widget._parameterNode
        p.source, p.cache = str(chests), f"{place}/prepared"
        assert desk.wait(60, lambda: ui.prepareButton.enabled), ui.prepareButton.toolTip
        ui.prepareButton.click()
        assert desk.wait(600, lambda: widget.data.job is None), "not prepared"
        widget.data.showCase([name for name, _picture, _remarks in widget.data._cases].index("sample"))
        desk.sections("data")
        desk.wait(1)
        desk.picture(folder / "slicer_training_case.png")

        p.preset, p.cache, p.run = Preset.TINY, f"{place}/prepared-tiny", f"{place}/run"
        p.trainPrior = p.trainFine = p.trainSuperResolution = False
        p.keptChests, p.budget, p.budgetSteps = 100, Budget.STEPS, 600
        ui.prepareButton.click()
        assert desk.wait(600, lambda: widget.data.job is None), "not prepared"
        desk.sections("training", "model")
        assert desk.wait(120, lambda: "About" in ui.estimateLabel.text), "no estimate"
        ui.applyButton.click()
        assert desk.wait(1200, lambda: widget.train.job is None), "not trained"
        desk.wait(1)
        ui.advancedButton.collapsed = False
        desk.picture(folder / "slicer_training.png")
    desk.close("AXONTraining")


def main(folder):
    reconstruction(pathlib.Path(folder))
    training(pathlib.Path(folder))


def reconstruction(folder):
    """The pictures of AXONReconstruction."""
    desk = Desk()
    widget, ui = desk.widget, desk.ui
    from AXONLib import volumes
    from AXONLib.parameters import CompareMode

    samples = desk.root / "Resources"
    widget.films.open(str(samples / "Samples" / "hannover_fff13f3a_pa.png"), "frontal")
    desk.sections("films", "reconstruct")
    assert desk.wait(120, lambda: "about" in ui.estimateLabel.text), "no estimate"
    desk.picture(folder / "slicer_films.png")

    widget.films.open(str(samples / "SampleData" / "acrin_042_scout_ap.nrrd"), "frontal")
    parameters = widget.session.parameters
    parameters.groundTruth = volumes.loadCt(samples / "SampleData" / "acrin_042_ct.nrrd")
    desk.sections("registration")
    ui.registerButton.click()
    ui.searchButton.click()
    assert desk.wait(300, lambda: widget.registration.search.job is None), "no registration"
    parameters.compareMode = CompareMode.RED_CYAN
    desk.wait(2)
    desk.picture(folder / "slicer_registration.png")

    ui.registerButton.click()
    desk.sections("reconstruct", "result")
    ui.applyButton.click()
    assert desk.wait(600, lambda: widget.run.job is None), "no result"
    assert desk.wait(300, lambda: widget.result.job is None), "no comparison"
    desk.wait(1)
    desk.picture(folder / "slicer_compare.png")
    desk.close("AXONReconstruction")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
