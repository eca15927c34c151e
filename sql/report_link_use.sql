-- Uses a link to the weekly report: deletes it and returns its account.
--
-- $1 id bytea                      SHA-256 of the secret in the URL
--
-- row: account_id uuid
--
-- No row: the link is unknown, was used or has expired by this server's clock, or its account is
-- not active.
-- Of two requests at once, on any instances, the second waits for the row lock, and then finds that
-- the row is gone: a link works once.
delete from viewing_report_links as l
using users as u
where l.id = $1::bytea
    and l.expires_at > now()
    and u.id = l.account_id
    and u.is_active
returning l.account_id
