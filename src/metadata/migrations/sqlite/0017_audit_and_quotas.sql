-- What administrators did: a row for each change of tenants and keys, written in the transaction that makes the change. Its id is a uuid, whose order is that
-- of time. tenant is that of what was changed, absent for the keys of operators. Rows are never changed, and go after a time.
CREATE TABLE audit_events (
    id         TEXT NOT NULL PRIMARY KEY,
    time       INTEGER NOT NULL,
    tenant     TEXT,
    principal  TEXT NOT NULL,
    source     TEXT NOT NULL,
    method     TEXT NOT NULL,
    resource   TEXT NOT NULL,
    detail     TEXT NOT NULL,
    request_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_events_by_tenant ON audit_events (tenant, id);

-- What a tenant may store; absent means no limit, of unfinished jobs that of all tenants.
ALTER TABLE tenants ADD COLUMN videos_limit INTEGER;
ALTER TABLE tenants ADD COLUMN bytes_limit INTEGER;
ALTER TABLE tenants ADD COLUMN tasks_limit INTEGER;
ALTER TABLE tenants ADD COLUMN versions_limit INTEGER;
ALTER TABLE tenants ADD COLUMN jobs_limit INTEGER;

-- What a tenant stores, changed in the transaction that adds or removes, also of tenants that nobody created. bytes are those of videos and versions.
CREATE TABLE tenant_usage (
    tenant   TEXT NOT NULL PRIMARY KEY,
    videos   INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    tasks    INTEGER NOT NULL,
    versions INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO tenant_usage (tenant, videos, bytes, tasks, versions)
    SELECT tenant, SUM(videos), SUM(bytes), SUM(tasks), SUM(versions) FROM (
        SELECT tenant, 1 AS videos, size_bytes AS bytes, 0 AS tasks, 0 AS versions FROM videos WHERE delete_time IS NULL
        UNION ALL SELECT tenant, 0, 0, 1, 0 FROM tasks
        UNION ALL SELECT tenant, 0, size_bytes, 0, 1 FROM versions
    ) AS stored GROUP BY tenant;
