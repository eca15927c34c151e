-- Loads a demo family into a database without accounts.
--
-- $1 account_id uuid
-- $2 child_id uuid
-- $3 sibling_id uuid
-- $4 title_id uuid
-- $5 lesson_id uuid                an educational title
-- $6 password_hash text
-- $7 pin_hash text
-- $8 now timestamptz
--
-- row: is_demo bool                the database has the demo family, from now or an earlier load
--
-- A database with other accounts is not changed. Two weeks of sessions fill the weekly report and
-- the history; the database makes their ids. The sibling has downtime at night and a weekly limit, so
-- that there is a decision with more than one rule.
with account as (
    insert into users (
        id, email, password_hash, subscription_tier, is_admin, is_active, created_at, pin_hash,
        pin_failed_attempts
    )
    select
        $1::uuid, 'parent@demo.example', $6::text, 'basic', true, true, $8::timestamptz, $7::text, 0
    where not exists (select from users)
    returning id
),
children as (
    insert into profiles (id, user_id, name, parental_rating, is_kids, created_at)
    select
        c.id, a.id, c.name, 'TV-G', true, $8::timestamptz
    from account as a
    cross join (values ($2::uuid, 'Ada'), ($3::uuid, 'Ben')) as c (id, name)
    returning id
),
schedules as (
    insert into viewing_schedules (profile_id, downtime, weekly_limit_minutes, updated_at)
    select
        c.id,
        jsonb_build_array(
            jsonb_build_object(
                'days', jsonb_build_array('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'),
                'start', '20:00',
                'end', '06:00'
            )
        ),
        600,
        $8::timestamptz
    from children as c
    where c.id = $3::uuid
),
catalogue as (
    insert into titles (id, title, title_type, is_featured, is_educational, created_at)
    select
        t.id, t.title, t.title_type, false, t.is_educational, $8::timestamptz
    from account as a
    cross join (
        values
            ($4::uuid, 'The Paper Boat', 'series', false),
            ($5::uuid, 'How Planets Move', 'movie', true)
    ) as t (id, title, title_type, is_educational)
    returning id, is_educational
),
watched as (
    insert into viewing_sessions (
        id, profile_id, title_id, device_id, device_type, is_educational, started_at,
        last_heartbeat_at, ended_at, total_seconds
    )
    select
        gen_random_uuid(),
        c.id,
        t.id,
        'living-room',
        'tv',
        t.is_educational,
        s.started_at,
        s.started_at + interval '40 minutes',
        s.started_at + interval '40 minutes',
        600 + 30 * (extract(day from s.started_at)::int % 40)
    from children as c
    cross join catalogue as t
    cross join lateral (
        select $8::timestamptz - make_interval(days => d.ago, hours => 2) as started_at
        from generate_series(1, 13) as d (ago)
    ) as s
)
select
    exists (select from account) or exists (select from users as u where u.id = $1::uuid)
        as is_demo
