-- Stores a link to the weekly report of an account.
--
-- $1 account_id uuid               the caller
-- $2 id bytea                      SHA-256 of the secret in the URL
-- $3 life_seconds int
-- $4 max_links int                 of an account; the oldest are deleted
--
-- row: is_active bool              the account is active; nothing is stored otherwise
-- row: expires_at timestamptz      by this server's clock; null if nothing is stored
--
-- No row: the account is unknown. The lock on it, which the foreign key takes in any case, is taken
-- first, so an account that is being deleted counts as unknown.
-- Also deletes some expired rows of any account, so that none stay for long. Rows that another
-- transaction has locked are skipped, so two of these statements never wait for each other.
-- Parts that lock rows take values from others by subqueries, because Citus reads a part wrongly that
-- locks rows and joins.
with caller as materialized (
    select u.id, u.is_active
    from users as u
    where u.id = $1::uuid
    for key share
),
kept as (
    insert into viewing_report_links (id, account_id, expires_at)
    select $2::bytea, c.id, now() + make_interval(secs => $3::int)
    from caller as c
    where c.is_active
    returning expires_at
),
old as (
    select x.id
    from viewing_report_links as x
    where x.expires_at <= now()
    order by x.expires_at
    limit 10
    for update skip locked
),
surplus as (
    select x.id
    from viewing_report_links as x
    where x.id = any(
        array(
            select y.id
            from viewing_report_links as y
            where y.account_id = (select c.id from caller as c where c.is_active)
            order by y.expires_at desc
            offset $4::int - 1
        )
    )
    for update skip locked
),
gone as (
    delete from viewing_report_links as x
    where x.id in (
        select o.id from old as o
        union
        select s.id from surplus as s
    )
)
select c.is_active, k.expires_at
from caller as c
left join kept as k on true
