-- Acknowledges changes of configurations to the instances that made them.
--
-- $1 acknowledgement text          `nonce,nonce instance`, less than 8,000 bytes
--
-- row: notified text               always empty: the result of pg_notify
select pg_notify('viewing_config_heard', $1::text)::text as notified
