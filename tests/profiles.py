"""How much is tried: little by day; with HYPOTHESIS_PROFILE=nightly everything, and other random examples each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

DAY, NIGHT = "day", "nightly"
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", DAY)
NIGHTLY = PROFILE == NIGHT

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
PROFILES = {
    DAY: settings(max_examples=6, derandomize=True, phases=[Phase.explicit, Phase.generate], **COMMON),
    NIGHT: settings(max_examples=200, print_blob=True, **COMMON),
}


def load_profile() -> None:
    """Let all properties be tried as the profile of the environment says; shrinking is left to the night."""
    for name, chosen in PROFILES.items():
        settings.register_profile(name, chosen)
    settings.load_profile(PROFILE)
