-- Creates the table that the lines of a batch are copied into.
--
-- The table is temporary and dropped at the end of the transaction: an interrupted import leaves no
-- personal data behind, and no other transaction sees the lines.
create temporary table import_lines (
    line int8 not null,              -- number in the file, counted from 1
    type text not null,              -- account, profile or title
    members jsonb not null           -- id and the members of a PUT; absent ones are left out
) on commit drop
