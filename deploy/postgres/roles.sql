-- Two roles on the PostgreSQL server: the owner makes and changes the schema and prunes the audit log; the server's role reads and writes the records, but
-- can only add to the audit log and read it, so that whoever takes over a server cannot hide what it did before.
--
-- A superuser, or a role that may create roles and owns the database, runs this in the database, before the first `frameshift migrate` and after each one:
--   psql -d frameshift -v owner=frameshift_owner -v server=frameshift -f roles.sql
--   frameshift migrate --database-url postgres://frameshift_owner@…/frameshift
--   psql -d frameshift -v owner=frameshift_owner -v server=frameshift -f roles.sql
-- It may be repeated at any time. Give both roles passwords with \password. Servers connect as `server` with `database_migrate = false`.
\set ON_ERROR_STOP on
\if :{?owner}
\else
\set owner frameshift_owner
\endif
\if :{?server}
\else
\set server frameshift
\endif

-- All or nothing: no right that is taken back below is ever seen by another session, and running servers keep theirs.
BEGIN;
SET LOCAL lock_timeout = '10s';

SELECT format('CREATE ROLE %I LOGIN', name) FROM (VALUES (:'owner'), (:'server')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- The owner of the database has the rights of the schema's owner, so that a server's role hands over the database that it made, and keeps connecting to it.
SELECT format(change, current_database(), name)
FROM (VALUES (1, 'ALTER DATABASE %I OWNER TO %I', :'owner'), (2, 'GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', :'server')) AS handed (step, change, name)
WHERE EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND pg_get_userbyid(datdba) = :'server') ORDER BY step \gexec
SELECT format('ALTER SCHEMA public OWNER TO %I', :'owner') FROM pg_namespace
WHERE nspname = 'public' AND pg_get_userbyid(nspowner) = :'server' \gexec

-- Nobody else makes anything in the schema.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM :"server";
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"server";

-- What servers made before there were two roles changes hands.
SELECT format('ALTER TABLE public.%I OWNER TO %I', tablename, :'owner') FROM pg_tables
WHERE schemaname = 'public' AND tableowner <> :'owner' \gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, :'owner') FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND pg_get_userbyid(proowner) <> :'owner'
AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e') \gexec

GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO :"server";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"server";

-- Of these the server only reads, and of the first it adds rows.
SELECT format('REVOKE ALL ON public.%I FROM %I', name, :'server') FROM (VALUES ('audit_events'), ('_sqlx_migrations')) AS kept (name)
WHERE to_regclass('public.' || name) IS NOT NULL \gexec
SELECT format('GRANT %s ON public.%I TO %I', allowed, name, :'server')
FROM (VALUES ('audit_events', 'SELECT, INSERT'), ('_sqlx_migrations', 'SELECT')) AS kept (name, allowed)
WHERE to_regclass('public.' || name) IS NOT NULL \gexec

-- Whoever could take these rights back is not held by them: then nothing of this is done.
SELECT format('DO $do$ BEGIN RAISE EXCEPTION %L; END $do$',
  'the role of the servers is a superuser, may make roles, or has the rights of the owner or of the owner of the database or of the schema')
FROM pg_roles WHERE rolname = :'server' AND (rolsuper OR rolcreaterole OR pg_has_role(oid, :'owner', 'MEMBER')
OR EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND pg_has_role(pg_roles.oid, datdba, 'MEMBER'))
OR EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public' AND pg_has_role(pg_roles.oid, nspowner, 'MEMBER'))) \gexec

COMMIT;
