-- Reads which cell the tables belong to.
--
-- row: name text                   of the cell
--
-- No row: the tables are no cell, so they are all that there is.
select c.name::text as name
from viewing_cell as c
