"""Where images come from: each source turns a folder into rows of the catalog."""
