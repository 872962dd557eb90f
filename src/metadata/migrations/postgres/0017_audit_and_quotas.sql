-- What administrators did: a row for each change of tenants and keys, written in the transaction that makes the change. Its id is a uuid, whose order is that
-- of time. tenant is that of what was changed, absent for the keys of operators. Rows are never changed, and go after a time.
CREATE TABLE audit_events (
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    time       BIGINT NOT NULL,
    tenant     TEXT COLLATE "C",
    principal  TEXT COLLATE "C" NOT NULL,
    source     TEXT COLLATE "C" NOT NULL,
    method     TEXT COLLATE "C" NOT NULL,
    resource   TEXT COLLATE "C" NOT NULL,
    detail     TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_events_by_tenant ON audit_events (tenant, id);

-- What a tenant may store; absent means no limit, of unfinished jobs that of all tenants.
ALTER TABLE tenants ADD COLUMN videos_limit BIGINT;
ALTER TABLE tenants ADD COLUMN bytes_limit BIGINT;
ALTER TABLE tenants ADD COLUMN tasks_limit BIGINT;
ALTER TABLE tenants ADD COLUMN versions_limit BIGINT;
ALTER TABLE tenants ADD COLUMN jobs_limit BIGINT;

-- What a tenant stores, changed in the transaction that adds or removes, also of tenants that nobody created. bytes are those of videos and versions.
CREATE TABLE tenant_usage (
    tenant   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    videos   BIGINT NOT NULL,
    bytes    BIGINT NOT NULL,
    tasks    BIGINT NOT NULL,
    versions BIGINT NOT NULL
);
