"""The pages that people read: the report of a run and the predictions on their images."""
