-- Finds the rights that the service needs and the role lacks.
--
-- $1 tables text[]
--
-- row: missing text[]              rights, as grants name them: `select, insert on table users`
-- row: role_name text
--
-- A right to some columns counts, because the platform may keep others for itself. Tables outside
-- the search path are left out: `schema_tables` reports them.
select
    array(
        select m.what
        from (
            (
                select
                    string_agg(r.name, ', ' order by r.place) || ' on table ' || t.name as what,
                    t.place
                from unnest($1::text[]) with ordinality as t (name, place)
                cross join unnest(array['select', 'insert', 'update', 'delete'])
                    with ordinality as r (name, place)
                where to_regclass(t.name) is not null
                    and not has_table_privilege(to_regclass(t.name)::oid, r.name)
                    and (
                        r.name = 'delete'
                        or not has_any_column_privilege(
                            to_regclass(t.name)::oid,
                            case when r.name = 'delete' then 'select' else r.name end
                        )
                    )
                group by t.name, t.place
            )
            union all
            (
                select 'execute on function ' || f.name, 1000
                from (
                    values
                    ('viewing_session_begin(uuid, timestamptz, text)'),
                    ('viewing_clock_count(uuid, timestamptz, timestamptz)'),
                    ('viewing_policies(uuid[], date[], date[], timestamptz)'),
                    ('viewing_past_balances(int[], uuid[], date[], date[])'),
                    ('viewing_day_balances(uuid[], date[])'),
                    (
                        'viewing_balances_add(uuid[], date[], int[], bool[], int[], int[], text, '
                        'timestamptz)'
                    ),
                    (
                        'viewing_balances_open(uuid[], date[], int[], bool[], int[], text, '
                        'timestamptz, bool)'
                    ),
                    (
                        'viewing_announce(int[], int[], uuid[], date[], uuid[], int[], bool[], '
                        'uuid[], int[], int[], int[], int[], date[], int[], bool[], int[], int[], '
                        'text[], timestamptz)'
                    ),
                    ('viewing_is_close(uuid, date, int, timestamptz)'),
                    ('viewing_earlier_parts(jsonb, int, timestamptz)'),
                    ('viewing_session_is_displaced(uuid, text, timestamptz, timestamptz)'),
                    ('viewing_event_id()'),
                    ('viewing_balance_month_add(bool)'),
                    ('viewing_balance_month_drop(date)')
                ) as f (name)
                where to_regprocedure(f.name) is not null
                    and not has_function_privilege(to_regprocedure(f.name)::oid, 'execute')
            )
            union all
            (
                select format('temporary on database %I', current_database()), 1001
                where not has_database_privilege(current_database(), 'temporary')
            )
        ) as m
        order by m.place
    ) as missing,
    quote_ident(current_user) as role_name
