"""The local web app: drop images on a page, get the predictions page."""
