"""What holds for every test."""

from hypothesis import settings

# seeded, as all tests are; no deadline, because a first call may load half of torch on a busy machine
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")
