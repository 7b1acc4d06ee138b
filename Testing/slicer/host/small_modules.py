"""`slicer.i18n`, `slicer.packaging` and `SampleData`; the last two only keep what they were asked for."""

import importlib.metadata
import pathlib
import types

import slicer
from packaging.requirements import Requirement


def i18n():
    module = types.ModuleType("slicer.i18n")

    def tr(text):
        if not isinstance(text, str):
            raise TypeError(f"only text can be translated, not {text!r}")
        return text

    module.tr, module.translate = tr, lambda context, text: tr(text)
    return module


def packaging():
    """pip_check is true to this Python; nothing is ever installed. `.ensured` lists the missing packages asked for."""
    module = types.ModuleType("slicer.packaging")
    module.ensured = []

    def load_requirements(path):
        lines = [line.split("#")[0].strip() for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
        return [Requirement(line) for line in lines if line]

    def pip_check(requirement):
        requirements = requirement if isinstance(requirement, list) else [requirement]
        return all(_satisfied(Requirement(str(r))) for r in requirements)

    def pip_ensure(
        requirements,
        constraints=None,
        skip_packages=None,
        prompt_install=True,
        prompt_restart=True,
        requester=None,
        skip_in_testing=True,
        show_progress=True,
    ):
        requirements = requirements if isinstance(requirements, list) else [requirements]
        missing = [str(r) for r in requirements if not pip_check(r)]
        if not missing or (skip_in_testing and slicer.app.testingEnabled()):
            return
        if prompt_install and not slicer.util.confirmOkCancelDisplay(
            "Packages need to be installed: " + ", ".join(missing)
        ):
            raise RuntimeError("User declined package installation")
        module.ensured += missing

    module.load_requirements, module.pip_check, module.pip_ensure = load_requirements, pip_check, pip_ensure
    return module


def _satisfied(requirement):
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def sampleData():
    """Registrations end in slicer.modules.sampleDataSources, as in Slicer; downloads are not modelled."""
    module = types.ModuleType("SampleData")

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataCategory(category, title):
            _table("sampleDataSourceCategories").setdefault(category, {})["title"] = title

        @staticmethod
        def registerCustomSampleDataSource(
            category="Custom",
            sampleName=None,
            uris=None,
            fileNames=None,
            nodeNames=None,
            customDownloader=None,
            thumbnailFileName=None,
            loadFileTypes=None,
            loadFiles=None,
            loadFileProperties=None,
            checksums=None,
        ):
            source = types.SimpleNamespace(
                sampleName=sampleName,
                uris=uris,
                fileNames=fileNames,
                nodeNames=nodeNames,
                customDownloader=customDownloader,
                thumbnailFileName=thumbnailFileName,
                loadFileTypes=loadFileTypes,
                loadFiles=loadFiles,
                loadFileProperties=loadFileProperties,
                checksums=checksums,
            )
            sources = _table("sampleDataSources").setdefault(category, [])
            if sampleName not in [s.sampleName for s in sources]:
                sources.append(source)

    def _table(name):
        return vars(slicer.modules).setdefault(name, {})

    module.SampleDataLogic = SampleDataLogic
    return module
