"""Tests of repoagent; they need neither a GPU nor the network."""

from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("repoagent", deadline=None)
settings.load_profile("repoagent")
