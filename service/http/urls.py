"""The beginnings of URLs that more than one module uses; `app.py` lists every route."""

from typing import Final

VIEWING: Final = "/api/v1/viewing-time"
PARENTAL: Final = "/api/v1/parental-controls"
PROFILE: Final = f"{PARENTAL}/profiles/{{profile_id}}"
ADMIN: Final = "/api/v1/admin"
HEALTH: Final = "/health"
METRICS: Final = "/metrics"
