"""Everything to one HTML page."""
