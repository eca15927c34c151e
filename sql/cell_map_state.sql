-- Reads a value that differs from that of before if anything in the map of a cell has changed.
--
-- row: state text                  numbers of rows, and sums of epochs, which rise with every change
--
-- Reads every entry, and returns one row: an entry that was written late can have a lower epoch than
-- others, so no highest epoch tells what is new.
select
    concat_ws(
        ' ',
        (select concat_ws(' ', count(*), sum(s.epoch)) from viewing_cell_slots as s),
        (
            select concat_ws(' ', count(*), sum(a.epoch))
            from viewing_cell_accounts as a
            where a.state <> 'arrives'
        )
    ) as state
