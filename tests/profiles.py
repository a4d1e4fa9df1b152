"""Amount of trials: few by day; with HYPOTHESIS_PROFILE=nightly everything, and other random examples each time."""

from __future__ import annotations

import os

DAY, NIGHT = "day", "nightly"
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", DAY)
NIGHTLY = PROFILE == NIGHT


def load_profile() -> None:
    """Let properties be tried as the profile of the environment says; shrinking, which takes minutes, is for the night.

    Modules with properties call it: hypothesis takes long to load, and the others do without it.
    """
    from hypothesis import HealthCheck, Phase, settings

    common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    day = settings(max_examples=6, derandomize=True, phases=[Phase.explicit, Phase.generate], **common)
    settings.register_profile(DAY, day)
    settings.register_profile(NIGHT, settings(max_examples=200, print_blob=True, **common))
    settings.load_profile(PROFILE)
