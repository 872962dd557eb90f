-- Every record has its tenant in its primary key. Times are microseconds since the Unix epoch; uuids are text, whose order is that of time. Texts are
-- compared byte by byte, since page tokens rely on that order.

-- SQLite's functions on JSON, for statements that both databases run. A path is "$." and names with dots between them.
CREATE FUNCTION json_each(document TEXT) RETURNS TABLE (value JSONB)
    LANGUAGE sql IMMUTABLE STRICT ROWS 500
    AS $$ SELECT jsonb_array_elements(document::jsonb) $$;
CREATE FUNCTION json_extract(document TEXT, path TEXT) RETURNS TEXT
    LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT document::jsonb #>> string_to_array(substr(path, 3), '.') $$;
CREATE FUNCTION json_remove(document TEXT, path TEXT) RETURNS TEXT
    LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT (document::jsonb #- string_to_array(substr(path, 3), '.'))::text $$;
CREATE FUNCTION json_remove(document TEXT, one TEXT, two TEXT) RETURNS TEXT
    LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT (document::jsonb #- string_to_array(substr(one, 3), '.') #- string_to_array(substr(two, 3), '.'))::text $$;

-- Which resource a create with a request id made.
CREATE TABLE requests (
    tenant      TEXT COLLATE "C" NOT NULL,
    method      TEXT COLLATE "C" NOT NULL,
    request_id  TEXT COLLATE "C" NOT NULL,
    resource    TEXT COLLATE "C" NOT NULL,
    create_time BIGINT NOT NULL,
    PRIMARY KEY (tenant, method, request_id)
);

-- delete_time makes a row a tombstone.
CREATE TABLE videos (
    tenant       TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    display_name TEXT COLLATE "C" NOT NULL,
    size_bytes   BIGINT NOT NULL,
    sha256       BYTEA NOT NULL,
    probe        TEXT COLLATE "C" NOT NULL,
    create_time  BIGINT NOT NULL,
    delete_time  BIGINT,
    PRIMARY KEY (tenant, id)
);

-- video is set when the upload has finished; next_part is never given out twice.
CREATE TABLE uploads (
    tenant       TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    display_name TEXT COLLATE "C" NOT NULL,
    next_part    BIGINT NOT NULL DEFAULT 0,
    video        TEXT COLLATE "C",
    create_time  BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX uploads_by_video ON uploads (tenant, video) WHERE video IS NOT NULL;

CREATE TABLE parts (
    tenant     TEXT COLLATE "C" NOT NULL,
    upload     TEXT COLLATE "C" NOT NULL,
    number     BIGINT NOT NULL,
    start      BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (tenant, upload, number),
    FOREIGN KEY (tenant, upload) REFERENCES uploads (tenant, id) ON DELETE CASCADE
);

CREATE TABLE datasets (
    tenant       TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    display_name TEXT COLLATE "C" NOT NULL,
    create_time  BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE examples (
    tenant  TEXT COLLATE "C" NOT NULL,
    dataset TEXT COLLATE "C" NOT NULL,
    video   TEXT COLLATE "C" NOT NULL,
    label   TEXT COLLATE "C" NOT NULL,
    split   TEXT COLLATE "C" NOT NULL CHECK (split IN ('train', 'validation', 'test')),
    PRIMARY KEY (tenant, dataset, video),
    FOREIGN KEY (tenant, dataset) REFERENCES datasets (tenant, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant, video) REFERENCES videos (tenant, id)
);
CREATE INDEX examples_by_video ON examples (tenant, video);
CREATE INDEX examples_by_label ON examples (tenant, dataset, label, split);

-- What a data set held at one moment, named by its content.
CREATE TABLE snapshots (
    tenant      TEXT COLLATE "C" NOT NULL,
    digest      BYTEA NOT NULL,
    create_time BIGINT NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE TABLE snapshot_examples (
    tenant TEXT COLLATE "C" NOT NULL,
    digest BYTEA NOT NULL,
    video  TEXT COLLATE "C" NOT NULL,
    label  TEXT COLLATE "C" NOT NULL,
    split  TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, digest, video),
    FOREIGN KEY (tenant, digest) REFERENCES snapshots (tenant, digest)
);
CREATE INDEX snapshot_examples_by_video ON snapshot_examples (tenant, video);

-- An etag is incarnation and revision: a task that is made anew does not accept its predecessor's.
CREATE TABLE tasks (
    tenant        TEXT COLLATE "C" NOT NULL,
    id            TEXT COLLATE "C" NOT NULL,
    display_name  TEXT COLLATE "C" NOT NULL,
    adapter       TEXT COLLATE "C" NOT NULL,
    sampling      TEXT COLLATE "C" NOT NULL,
    auto_serve    BIGINT NOT NULL,
    serving       BIGINT,
    desired       BIGINT,
    serving_error TEXT COLLATE "C",
    incarnation   TEXT COLLATE "C" NOT NULL,
    revision      BIGINT NOT NULL DEFAULT 1,
    create_time   BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX pending_tasks ON tasks (tenant, id) WHERE desired IS DISTINCT FROM serving;

-- Outlives the task, so that (tenant, task, version) never names two things.
CREATE TABLE version_numbers (
    tenant TEXT COLLATE "C" NOT NULL,
    task   TEXT COLLATE "C" NOT NULL,
    last   BIGINT NOT NULL,
    PRIMARY KEY (tenant, task)
);

CREATE TABLE versions (
    tenant      TEXT COLLATE "C" NOT NULL,
    task        TEXT COLLATE "C" NOT NULL,
    version     BIGINT NOT NULL,
    manifest    TEXT COLLATE "C" NOT NULL,
    sha256      BYTEA NOT NULL,
    size_bytes  BIGINT NOT NULL,
    create_time BIGINT NOT NULL,
    PRIMARY KEY (tenant, task, version),
    FOREIGN KEY (tenant, task) REFERENCES tasks (tenant, id) ON DELETE CASCADE
);

-- lease_end is set while a worker has the job; losses counts claims that ended without a word since the last checkpoint.
CREATE TABLE jobs (
    tenant           TEXT COLLATE "C" NOT NULL,
    id               TEXT COLLATE "C" NOT NULL,
    task             TEXT COLLATE "C" NOT NULL,
    dataset          TEXT COLLATE "C" NOT NULL,
    dataset_digest   BYTEA NOT NULL,
    hyper_parameters TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL,
    reason           TEXT COLLATE "C",
    message          TEXT COLLATE "C",
    step             BIGINT NOT NULL DEFAULT 0,
    total_steps      BIGINT NOT NULL DEFAULT 0,
    attempts         BIGINT NOT NULL DEFAULT 0,
    losses           BIGINT NOT NULL DEFAULT 0,
    epoch            BIGINT NOT NULL DEFAULT 0,
    worker           TEXT COLLATE "C",
    lease_end        BIGINT,
    cancel_requested BIGINT NOT NULL DEFAULT 0,
    task_etag        TEXT COLLATE "C" NOT NULL,
    reserved_version BIGINT,
    checkpoint       TEXT COLLATE "C",
    result           TEXT COLLATE "C",
    last_event       BIGINT NOT NULL DEFAULT 0,
    create_time      BIGINT NOT NULL,
    end_time         BIGINT,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, dataset_digest) REFERENCES snapshots (tenant, digest)
);
CREATE INDEX unfinished_jobs ON jobs (state, create_time) WHERE end_time IS NULL;
CREATE INDEX unfinished_jobs_by_tenant ON jobs (tenant, task) WHERE end_time IS NULL;
CREATE INDEX leased_jobs ON jobs (tenant) WHERE lease_end IS NOT NULL;

CREATE TABLE events (
    tenant   TEXT COLLATE "C" NOT NULL,
    job      TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL,
    time     BIGINT NOT NULL,
    event    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, job, sequence),
    FOREIGN KEY (tenant, job) REFERENCES jobs (tenant, id)
);
