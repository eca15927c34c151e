"""The operations by which parents decide about a child: schedule, exceptions, lock."""

from typing import Final

from service import errors
from service.openapi.operation import EVERYWHERE, Operation, owner
from service.openapi.parameters import PIN_TOKEN
from service.parents import schedule
from service.viewing import rules

# By the name of the handler, as in `operations`.
POLICY: Final[dict[str, Operation]] = {
    "schedule": owner(schedule.Schedule),
    "schedule_put": owner(
        schedule.Schedule,
        schedule.ScheduleBody,
        [
            errors.PIN_TOKEN_REQUIRED,
            *(
                errors.not_a_multiple(name, rules.LIMIT_STEP_MINUTES)
                for name in (
                    *(f"daily_limits.{day}" for day in schedule.DAY_NAMES),
                    "weekly_limit_minutes",
                )
            ),
        ],
        [PIN_TOKEN],
        EVERYWHERE,
    ),
}
