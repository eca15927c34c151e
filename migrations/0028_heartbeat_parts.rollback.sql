-- Only this service's heartbeat depends on the functions.
set local lock_timeout = '2s';

drop function if exists viewing_policies (uuid[], date[], date[], timestamptz);

drop function if exists viewing_past_balances (int[], uuid[], date[], date[]);

drop function if exists viewing_day_balances (uuid[], date[]);

drop function if exists viewing_earlier_parts (jsonb, int, timestamptz);

drop function if exists viewing_session_is_displaced (uuid, text, timestamptz, timestamptz);
