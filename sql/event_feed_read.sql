-- Reads whether events wait for their position, and the highest position that an event has.
--
-- row: position int8
-- row: has_new bool                an event has no position
-- row: is_writable bool            false: the server has become a standby
--
-- No row: the feed has no row, for example after only some tables were restored.
-- Index: `ix_ve_new`, which has only events without a position.
select
    f.position,
    exists (
        select
        from viewing_events as e
        where e.position is null
    ) as has_new,
    current_setting('transaction_read_only') = 'off' as is_writable
from viewing_event_feed as f
