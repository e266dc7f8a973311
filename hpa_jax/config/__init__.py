"""Options: their defaults, what they may be, and what recipes share."""
