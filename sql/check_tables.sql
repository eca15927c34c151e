-- Finds the properties of the tables that keep the service from reading or writing its rows.
--
-- row: level text                  refuse: every heartbeat fails; fault; warn: rows may be refused
-- row: error text                  missing, type, written, null, value, key, deferrable, invalid,
--                                  rule, security, policies, trigger, generated, unique
-- row: table_name text             quoted where an identifier needs it, as are the names below
-- row: name text                   of the column, index, trigger or rule; a key's columns
-- row: found text                  the type of a column
-- row: expected text               the type that it must have
-- row: role_name text
--
-- Reads the catalogue only, so it needs no right. An adopted table may have more columns, types
-- with the same values, and rules of the platform's own. Only columns that statements name are
-- checked; the statements of heartbeats name the hot ones. A word after the type means: `null`, the
-- service writes nulls; `omitted`, its inserts leave the column out. `insert_level` is the level of
-- a table that rejects every new row; for accounts, profiles and titles that is a 409. Into tables
-- that are `is_upserted`, heartbeats need the key.
with expected as (
    select
        to_regclass(t.name)::oid as oid,
        t.name,
        t.insert_level,
        t.read_level,
        t.hot,
        t.others,
        t.key,
        t.name in ('viewing_time_configs', 'viewing_time_balances') as is_upserted
    from (
        values
        (
            'users', 'warn', 'refuse', 'id uuid, is_active bool',
            'email text, password_hash text, subscription_tier text, is_admin bool, '
            'created_at timestamptz, pin_hash varchar(60) omitted, pin_failed_attempts int, '
            'pin_lockout_until timestamptz null',
            'id'
        ),
        (
            'profiles', 'warn', 'refuse', 'id uuid, user_id uuid, is_kids bool',
            'name text, parental_rating text, created_at timestamptz', 'id'
        ),
        (
            'titles', 'warn', 'refuse', 'id uuid, is_educational bool',
            'title text, title_type text, is_featured bool, created_at timestamptz', 'id'
        ),
        (
            'viewing_time_configs', 'fault', 'refuse',
            'id uuid, profile_id uuid, weekday_limit_minutes int null, '
            'weekend_limit_minutes int null, reset_hour int, educational_exempt bool, '
            'timezone varchar(50), created_at timestamptz, updated_at timestamptz, '
            'day_floor date null',
            null, 'profile_id'
        ),
        (
            'viewing_time_balances', 'refuse', 'refuse',
            'id uuid, profile_id uuid, reset_date date, used_seconds int, educational_seconds int, '
            'is_unlimited_override bool, updated_at timestamptz, limit_minutes int null, '
            'extended_minutes int null',
            'latest_credit_seconds int null', 'profile_id, reset_date'
        ),
        (
            'viewing_sessions', 'refuse', 'refuse',
            'id uuid, profile_id uuid, title_id uuid, device_id varchar(100), '
            'device_type varchar(20), is_educational bool, started_at timestamptz, '
            'last_heartbeat_at timestamptz, ended_at timestamptz null, total_seconds int, '
            'paused_at timestamptz null, recent_keys bytea null, earlier_days jsonb null',
            null, null
        ),
        (
            'time_grants', 'fault', 'fault', null,
            'id uuid, profile_id uuid, granted_by_user_id uuid, granted_minutes int null, '
            'is_remote bool, granted_at timestamptz, reset_date date, mode varchar(10), '
            'effect_seconds int null, undone_at timestamptz null, undone_by_user_id uuid null, '
            'request_id uuid null',
            null
        ),
        (
            'viewing_time_attempts', 'fault', 'fault', null,
            'id uuid, account_id uuid, is_password bool, begun_at timestamptz, '
            'locked_until timestamptz null, is_forgiven bool omitted',
            null
        ),
        (
            'viewing_time_password_failures', 'fault', 'fault', null,
            'account_id uuid, failures int, next_attempt_at timestamptz', 'account_id'
        ),
        (
            'pending_deletions', 'fault', 'fault', null,
            'kind varchar(7), id uuid, requested_at timestamptz omitted', 'kind, id'
        ),
        (
            'viewing_time_request_keys', 'fault', 'fault', null,
            'account_id uuid, mark uuid, digest bytea, status int, answer text, '
            'created_at timestamptz',
            'account_id, mark'
        ),
        (
            'viewing_schedules', 'fault', 'refuse',
            'profile_id uuid, daily_limits jsonb null, downtime jsonb, '
            'weekly_limit_minutes int null, week_starts_on varchar(3), rollover_max_minutes int, '
            'finish_minutes int',
            'updated_at timestamptz', 'profile_id'
        ),
        (
            'viewing_exceptions', 'fault', 'refuse',
            'profile_id uuid, day date, changes_limit bool, limit_minutes int null, '
            'lifts_downtime bool',
            'updated_at timestamptz', 'profile_id, day'
        ),
        (
            'viewing_locks', 'fault', 'refuse', 'profile_id uuid, locked_until timestamptz',
            'locked_at timestamptz', 'profile_id'
        ),
        (
            'viewing_clocks', 'fault', 'refuse', 'profile_id uuid',
            'counted_until timestamptz, latest_seconds int', 'profile_id'
        ),
        (
            'viewing_strict_accounts', 'fault', 'fault', null,
            'account_id uuid, since timestamptz', 'account_id'
        ),
        (
            'viewing_report_links', 'fault', 'fault', null,
            'id bytea, account_id uuid, expires_at timestamptz', null
        ),
        (
            'viewing_events', 'fault', 'fault', null,
            'id uuid omitted, seq int8 omitted, position int8 null omitted, account_id uuid, '
            'profile_id uuid null, type text, occurred_at timestamptz, data jsonb, '
            'cause text null, delivery_id uuid null omitted, delivered_at timestamptz null omitted, '
            'parked_at timestamptz null omitted',
            'profile_id, cause'
        ),
        (
            'viewing_event_feed', 'fault', 'fault', null,
            'is_only bool omitted, position int8, webhook_from int8 null', 'is_only'
        ),
        (
            'viewing_deliveries', 'fault', 'fault', null,
            'id uuid, created_at timestamptz, attempts int, due_at timestamptz', null
        ),
        (
            'viewing_requests', 'fault', 'fault', null,
            'id uuid, account_id uuid, profile_id uuid, minutes int null, '
            'message varchar(200) null, device_id varchar(100) null, status varchar(8), '
            'reset_date date, requested_at timestamptz, expires_at timestamptz, '
            'decided_at timestamptz null, decided_by_user_id uuid null, grant_id uuid null',
            null
        ),
        (
            'viewing_cell', 'fault', 'fault', null, 'is_only bool omitted, name varchar(40)',
            'is_only'
        ),
        (
            'viewing_cell_slots', 'fault', 'fault', null,
            'slot int, cell varchar(40), epoch int8', 'slot'
        ),
        (
            'viewing_cell_accounts', 'fault', 'fault', null,
            'id uuid, cell varchar(40), epoch int8, state varchar(7)', 'id'
        )
    ) as t (name, insert_level, read_level, hot, others, key)
    where to_regclass(t.name) is not null
),
checked as (
    select
        e.oid,
        e.name,
        e.insert_level,
        h.level,
        split_part(w.words, ' ', 1) as column_name,
        split_part(w.words, ' ', 2) as type_name,
        split_part(w.words, ' ', 3) as mark
    from expected as e
    cross join lateral (values (e.hot, 'refuse'), (e.others, 'fault')) as h (columns, level)
    cross join lateral unnest(string_to_array(h.columns, ', ')) as w (words)
),
present as (
    select
        e.oid,
        e.name,
        e.insert_level,
        a.attname::text as column_name,
        format_type(a.atttypid, a.atttypmod) as shown_type,
        coalesce(c.typname, b.typname, t.typname)::text as base_name,
        coalesce(c.typtype, b.typtype, t.typtype) = 'd' as is_deep,
        t.typcategory as category,
        greatest(a.atttypmod, t.typtypmod) - 4 as length,
        a.attgenerated <> '' as is_generated,
        a.attidentity = 'a' as is_identity,
        a.attnotnull or t.typnotnull or exists (
            select
            from pg_constraint as k
            where k.conrelid = e.oid
                and k.contype = 'c'
                and k.conkey = array[a.attnum]
                and pg_get_expr(k.conbin, k.conrelid) = format('(%I IS NOT NULL)', a.attname)
        ) as is_needed,
        a.atthasdef or a.attidentity <> '' or t.typdefault is not null as has_default
    from expected as e
    join pg_attribute as a on a.attrelid = e.oid and a.attnum > 0 and not a.attisdropped
    join pg_type as t on t.oid = a.atttypid
    left join pg_type as b on t.typtype = 'd' and b.oid = t.typbasetype
    left join pg_type as c on b.typtype = 'd' and c.oid = b.typbasetype
),
indexes as (
    select
        e.oid,
        x.relname::text as index_name,
        i.indisvalid as is_valid,
        i.indimmediate as is_immediate,
        i.indisunique and not i.indisexclusion and i.indpred is null and i.indexprs is null
            as is_plain,
        array(
            select a.attname::text
            from pg_attribute as a
            where a.attrelid = e.oid and a.attnum = any (i.indkey[0:i.indnkeyatts - 1])
        ) as columns
    from expected as e
    join pg_index as i on i.indrelid = e.oid and (i.indisunique or i.indisexclusion)
    join pg_class as x on x.oid = i.indexrelid
),
keys as (
    select
        e.name,
        e.key,
        case when e.is_upserted then 'refuse' else 'fault' end as level,
        m.deferrable_name,
        m.invalid_name,
        m.has_valid
    from expected as e
    cross join lateral (
        select
            min(i.index_name) filter (where i.is_valid and not i.is_immediate) as deferrable_name,
            min(i.index_name) filter (where not i.is_valid) as invalid_name,
            coalesce(bool_or(i.is_valid), false) as has_valid
        from indexes as i
        where i.oid = e.oid
            and i.is_plain
            and i.columns <@ string_to_array(e.key, ', ')
            and i.columns @> string_to_array(e.key, ', ')
    ) as m
    where e.key is not null
),
found as (
    (
        select
            w.level, 'missing' as error, w.name as table_name, quote_ident(w.column_name) as name,
            null as found, w.type_name as expected
        from checked as w
        where not exists (
            select
            from present as p
            where p.oid = w.oid and p.column_name = w.column_name
        )
    )
    union all
    (
        select
            case when k.is_alike then 'fault' else w.level end, 'type', w.name,
            quote_ident(w.column_name), p.shown_type, w.type_name
        from checked as w
        join present as p on p.oid = w.oid and p.column_name = w.column_name
        cross join lateral (
            select
                p.is_deep or case
                    when w.type_name = 'int' then
                        p.base_name in ('int4', 'int8') or (
                            p.base_name = 'int2'
                            and w.column_name in (
                                'reset_hour', 'weekday_limit_minutes', 'weekend_limit_minutes',
                                'granted_minutes', 'pin_failed_attempts'
                            )
                        )
                    when w.type_name = 'text' or w.type_name like 'varchar%' then
                        p.base_name in ('text', 'varchar', 'citext')
                    else p.base_name = w.type_name
                end as is_kind,
                p.category = (
                    select y.typcategory from pg_type as y where y.oid = to_regtype(w.type_name)
                ) as is_alike,
                p.base_name = 'varchar'
                and p.length between 0 and substring(w.type_name from '[0-9]+')::int - 1
                    as is_short
        ) as k
        where not k.is_kind or k.is_short
    )
    union all
    (
        select
            case when w.insert_level = 'refuse' then 'refuse' else 'fault' end,
            f.error, w.name, quote_ident(w.column_name), null, null
        from checked as w
        join present as p on p.oid = w.oid and p.column_name = w.column_name
        cross join lateral (
            values
            ('written', (p.is_generated or p.is_identity)),
            ('null', w.mark = 'null' and p.is_needed)
        ) as f (error, is_so)
        where f.is_so
    )
    union all
    (
        select
            case when f.error = 'value' then p.insert_level else 'warn' end,
            f.error, p.name, quote_ident(p.column_name), null, null
        from present as p
        cross join lateral (
            values
            ('value', p.is_needed and not p.has_default and not p.is_generated),
            ('generated', p.is_generated)
        ) as f (error, is_so)
        where f.is_so
            and not exists (
                select
                from checked as w
                where w.oid = p.oid and w.column_name = p.column_name and w.mark <> 'omitted'
            )
    )
    union all
    (
        select k.level, f.error, k.name, coalesce(quote_ident(f.name), k.key), null, k.key
        from keys as k
        cross join lateral (
            values
            ('deferrable', k.deferrable_name, k.deferrable_name is not null),
            ('invalid', k.invalid_name, not k.has_valid and k.invalid_name is not null),
            ('key', null, not k.has_valid and k.invalid_name is null)
        ) as f (error, name, is_so)
        where f.is_so
    )
    union all
    (
        select
            case
                when r.ev_type = '4' then 'warn'
                when e.is_upserted then 'refuse'
                else 'fault'
            end,
            'rule', e.name, quote_ident(r.rulename), null, null
        from expected as e
        join pg_rewrite as r on r.ev_class = e.oid
        where r.ev_type <> '1' and r.ev_enabled in ('O', 'A')
    )
    union all
    (
        select
            case
                when not s.can_read then e.read_level
                when not s.can_insert then e.insert_level
                else 'warn'
            end,
            case when s.can_read and s.can_insert then 'policies' else 'security' end,
            e.name, null, null, null
        from expected as e
        cross join lateral (
            select
                coalesce(bool_or(p.polcmd in ('*', 'r')), false) as can_read,
                coalesce(bool_or(p.polcmd in ('*', 'a')), false) as can_insert
            from pg_policy as p
            where p.polrelid = e.oid
                and p.polpermissive
                and exists (
                    select
                    from unnest(p.polroles) as o (oid)
                    where o.oid = 0 or pg_has_role(o.oid, 'usage')
                )
        ) as s
        where row_security_active(e.oid)
    )
    union all
    (
        select 'warn', 'trigger', e.name, quote_ident(g.tgname), null, null
        from expected as e
        join pg_trigger as g on g.tgrelid = e.oid
        where not g.tgisinternal
            and g.tgenabled in ('O', 'A')
            and g.tgtype & 28 <> 0
            and g.tgname <> 'viewing_cell_guard'
    )
    union all
    (
        select 'warn', 'unique', e.name, quote_ident(i.index_name), null, null
        from expected as e
        join indexes as i on i.oid = e.oid
        where e.insert_level <> 'warn'
            and i.index_name <> 'uq_vr_pending'
            and not (
                i.is_plain
                and (
                    'id' = any (i.columns)
                    or i.columns @> string_to_array(coalesce(e.key, 'id'), ', ')
                )
            )
    )
)
select
    f.level,
    f.error,
    f.table_name,
    f.name,
    f.found,
    f.expected,
    quote_ident(current_user) as role_name
from found as f
order by array_position(array['refuse', 'fault', 'warn'], f.level), f.table_name, f.error, f.name
