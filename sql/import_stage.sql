-- Makes the table that the lines of a batch are copied into.
--
-- Temporary and dropped with the transaction: an import that breaks off leaves nothing of the
-- people it is about, and no transaction of another sees the lines.
create temporary table import_lines (
    line int8 not null,              -- number in the file, from 1
    type text not null,              -- account, profile, title
    members jsonb not null           -- id, and what a put takes; absent ones are not there
) on commit drop
