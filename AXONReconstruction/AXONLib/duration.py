"""Seconds in words that a person would use."""

from slicer.i18n import tr as _


def durationText(seconds):
    if seconds < 90:
        return _("{n} s").format(n=max(1, round(seconds)))
    if seconds < 5400:
        return _("{n} min").format(n=round(seconds / 60))
    if seconds < 48 * 3600:
        return _("{n:.1f} h").format(n=seconds / 3600)
    return _("{n:.1f} days").format(n=seconds / 86400)
