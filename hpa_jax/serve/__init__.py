"""The local app: a page on which a person drops images and gets the predictions page."""
