"""Arrays as pictures of the panel."""

import numpy as np
import qt

MARK = (255, 199, 51)  # amber


def pixmapOf(image):
    """uint8 (h, w) or (h, w, 3) -> QPixmap, through a picture in memory."""
    image = np.ascontiguousarray(image, np.uint8)
    header = f"{'P5' if image.ndim == 2 else 'P6'} {image.shape[1]} {image.shape[0]} 255\n".encode()
    pixmap = qt.QPixmap()
    pixmap.loadFromData(qt.QByteArray(header + image.tobytes()), "PPM")
    return pixmap


def show(label, image, edge=150):
    """Put an array into a QLabel, not wider or higher than `edge`; None clears it."""
    if image is None:
        label.setPixmap(qt.QPixmap())
        return
    pixmap = pixmapOf(image)
    label.setPixmap(pixmap.scaled(edge, edge, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation))


def showFile(label, path, width):
    """Put a picture file into a QLabel, as wide as `width`; a missing one clears it."""
    pixmap = qt.QPixmap(str(path)) if path else qt.QPixmap()
    label.setPixmap(pixmap if pixmap.isNull() else pixmap.scaledToWidth(width, qt.Qt.SmoothTransformation))


def greyOf(film):
    """A film in [-1, 1] -> uint8."""
    return ((np.clip(film, -1, 1) + 1) * 127.5).astype(np.uint8)


def stretched(pixels, edge=256):
    """A film of any range -> uint8, thinned out to about `edge` pixels, between its first and last hundredth."""
    step = max(1, max(pixels.shape) // edge)
    small = pixels[::step, ::step]
    low, high = np.percentile(small, (1, 99))
    return (np.clip((small - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


def markedLeft(image):
    """(h, w) uint8 -> (h, w, 3): with an L where the patient's left side should be, on the right edge of a film."""
    size = max(12, image.shape[0] // 9)
    stroke = max(2, size // 5)
    top, left = size // 2, image.shape[1] - size - size // 4
    marked = np.repeat(image[..., None], 3, axis=-1)
    marked[top - stroke : top + size + stroke, left - stroke : left + size * 2 // 3 + stroke] = 0
    marked[top : top + size, left : left + stroke] = MARK
    marked[top + size - stroke : top + size, left : left + size * 2 // 3] = MARK
    return marked
