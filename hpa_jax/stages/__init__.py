"""The stages of `run`: each composes the rooms into tasks (inputs, outputs, what of the config)."""
