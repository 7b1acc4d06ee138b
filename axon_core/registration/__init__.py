"""Registration: films to the canonical detector, and films to CTs."""
