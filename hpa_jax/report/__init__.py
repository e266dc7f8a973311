"""HTML pages: the report of a run, and predictions of images."""
