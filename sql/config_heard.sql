-- Acknowledges changes of configurations to the instances that made them.
--
-- $1 acknowledgement text          `nonce,nonce instance`, less than 8,000 bytes
--
-- row: told text                   always empty: the notification's own result
select pg_notify('viewing_config_heard', $1::text)::text as told
