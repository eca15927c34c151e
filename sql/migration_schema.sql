-- Finds how to create the schema that the tables go to.
--
-- $1 name text
--
-- row: create_statement text
--
-- No row: the schema exists.
select format('create schema if not exists %I', w.name) as create_statement
from (values ($1::text)) as w (name)
where w.name <> '' and to_regnamespace(quote_ident(w.name)) is null
