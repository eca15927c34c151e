-- Counts titles, which every cell has.
--
-- row: titles int8
select count(*) as titles
from titles as t
