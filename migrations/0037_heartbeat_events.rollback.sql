-- Only this service's heartbeat depends on the functions.
set local lock_timeout = '2s';

drop function if exists viewing_session_begin (uuid, timestamptz, text);

drop function if exists viewing_is_close (uuid, date, int, timestamptz);

drop function if exists viewing_announce (
    int[], int[], uuid[], date[], uuid[], int[], bool[], uuid[], int[], int[], int[], int[], date[],
    int[], bool[], int[], int[], text[], timestamptz
);

drop function if exists viewing_balances_add (
    uuid[], date[], int[], bool[], int[], int[], text, timestamptz
);
