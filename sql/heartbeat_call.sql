-- Records a batch of heartbeats as heartbeat_record does, by the function of Citus cells.
--
-- $1  profile_ids uuid[]
-- $2  account_ids uuid[]
-- $3  title_ids uuid[]
-- $4  session_ids uuid[]
-- $5  starts bool[]
-- $6  device_ids text[]
-- $7  device_types text[]
-- $8  paused bool[]
-- $9  days date[]
-- $10 exempt bool[]
-- $11 keys bytea[]
-- $12 renews bool[]
-- $13 begin_seconds int8[]
-- $14 usage_from date[]
-- $15 exclusive bool[]
-- $16 announce_from int4[]
-- $17 rules text[]
-- $18 id_prefix text
-- $19 now timestamptz
-- $20 lock_timeout text
-- $21 by_clock bool
-- $22 guesses text[]
-- $23 guessed_days date[]
-- $24 guessed_begins int8[]
--
-- row: beats int4[]
-- row: refusals int4[]
-- row: educational bool[]
-- row: children uuid[]
-- row: used_seconds int4[]
-- row: overrides bool[]
-- row: renewed int4[]
-- row: weekday_limits int4[]
-- row: weekend_limits int4[]
-- row: reset_hours int4[]
-- row: exemptions bool[]
-- row: timezones text[]
-- row: policies text[]
-- row: are_children bool[]
-- row: extended uuid[]
-- row: extended_minutes int4[]
-- row: playing int4[]
-- row: session_seconds int4[]
-- row: past int4[]
-- row: past_days date[]
-- row: past_used_seconds int4[]
-- row: past_overrides bool[]
-- row: past_extended_minutes int4[]
-- row: past_limit_minutes int4[]
-- row: events int
--
-- Parameters and row mean the same as there. The function is in sql/citus/heartbeat.sql; `migrate`
-- installs it where the database has the extension. The profiles must be in ascending order.
select
    h.beats,
    h.refusals,
    h.educational,
    h.children,
    h.used_seconds,
    h.overrides,
    h.renewed,
    h.weekday_limits,
    h.weekend_limits,
    h.reset_hours,
    h.exemptions,
    h.timezones,
    h.policies,
    h.are_children,
    h.extended,
    h.extended_minutes,
    h.playing,
    h.session_seconds,
    h.past,
    h.past_days,
    h.past_used_seconds,
    h.past_overrides,
    h.past_extended_minutes,
    h.past_limit_minutes,
    h.events
from viewing_heartbeats(
    $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bool[], $6::text[], $7::text[],
    $8::bool[], $9::date[], $10::bool[], $11::bytea[], $12::bool[], $13::int8[], $14::date[],
    $15::bool[], $16::int4[], $17::text[], $18::text, $19::timestamptz, $20::text, $21::bool,
    $22::text[], $23::date[], $24::int8[]
) as h
