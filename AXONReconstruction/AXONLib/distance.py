"""The distance from source to detector: as the film tells it, as the user wants it, or still to be found."""

from axon_core.geometry import XrayView

USUAL_MM = {"PA": 1800.0, "AP": 1200.0}
LEAST_MM, MOST_MM = 800.0, 4000.0  # of the slider


class SourceDistance:
    """Proposes a distance for each film, and knows whether the present one is more than a proposal.

    Args:
        session: its parameters hold the distance, `sourceDistance` in mm.
    """

    def __init__(self, session):
        self.session = session
        self._proposals = set(USUAL_MM.values())

    def known(self):
        """Millimetres that the film tells or the user chose; None if nobody knows."""
        distance = self.session.parameters.sourceDistance
        told = self.session.frontal.radiograph.sdd_mm is not None
        return distance if told or distance not in self._proposals else None

    def propose(self, film):
        """Take over what a Radiograph tells, or what is usual for its view, unless the user has chosen."""
        if self.session.parameters.sourceDistance in self._proposals:
            self._put(film.sdd_mm or USUAL_MM["AP" if film.view is XrayView.AP else "PA"])

    def found(self, distance):
        """Take over a distance [mm] that a registration estimated."""
        self._put(distance)

    def _put(self, distance):
        distance = min(max(distance, LEAST_MM), MOST_MM)
        self._proposals.add(distance)
        self.session.parameters.sourceDistance = distance
