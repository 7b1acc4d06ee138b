"""The person in front of the host: what was said to them, and what they answer to questions and file dialogs."""

import dataclasses
import logging


@dataclasses.dataclass
class Message:
    kind: str  # "error", "warning", "info" or "question"
    text: str
    details: str = ""


messages = []
opened = []  # addresses handed to other programs
confirms = True  # the answer to every question
chosen = ""  # what file dialogs return: a path alone, PythonQt gives no filter; "" when they are left


def reset():
    global confirms, chosen
    messages.clear()
    opened.clear()
    confirms, chosen = True, ""


def tell(level, text, testingReturnValue, mainWindowNeeded=False, **named):
    """In the place of slicer.util's message box: nothing is shown, the message is kept."""
    import qt

    logging.log(level, text)
    buttons = named.get("standardButtons")
    question = named.get("icon") == qt.QMessageBox.Question
    kind = "question" if question else logging.getLevelName(level).lower()
    messages.append(Message(kind, text, named.get("detailedText", "")))
    yes = next(
        (b for b in (qt.QMessageBox.Ok, qt.QMessageBox.Yes, qt.QMessageBox.Retry) if buttons and b & buttons), None
    )
    no = next(
        (b for b in (qt.QMessageBox.Cancel, qt.QMessageBox.No, qt.QMessageBox.Close) if buttons and b & buttons), None
    )
    return yes if confirms or no is None else no
