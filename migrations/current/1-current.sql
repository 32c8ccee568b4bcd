set local lock_timeout = '5s';

comment on column app_private.event_imports.fingerprint is 'SHA-256 of the file''s content, its size and the way it is read.';

--!include functions/imports.sql
