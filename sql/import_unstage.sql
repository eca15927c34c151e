-- Drops the table of a batch's lines before the transaction ends.
--
-- Only a dry run needs it: all its batches are in one transaction, which is rolled back.
drop table import_lines
