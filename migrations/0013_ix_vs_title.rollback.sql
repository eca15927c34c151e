-- Ours alone, so it goes, and without shutting out anybody.
drop index concurrently if exists ix_vs_title;
