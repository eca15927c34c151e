-- Builds the unique index that becomes the primary key of the former table, without blocking.
create unique index concurrently if not exists viewing_time_balances_wide
on viewing_time_balances (id, reset_date)
