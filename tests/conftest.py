"""Settings of all tests: no deadline, since a first call may compile and machines are busy; no test asserts on time."""

from hypothesis import settings

settings.register_profile("hexsolve", deadline=None)
settings.load_profile("hexsolve")
