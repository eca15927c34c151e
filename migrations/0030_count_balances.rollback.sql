-- Only this service's heartbeat depends on the functions.
set local lock_timeout = '2s';

drop function if exists viewing_balances_count (
    uuid[], date[], int[], bool[], int[], text, timestamptz
);

drop function if exists viewing_balances_open (
    uuid[], date[], int[], bool[], int[], text, timestamptz, bool
);
