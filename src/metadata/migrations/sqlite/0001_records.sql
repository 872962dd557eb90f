-- Every record has its tenant in its primary key. Times are microseconds since the Unix epoch; uuids are text, whose order is that of time.

-- Which resource a create with a request id made.
CREATE TABLE requests (
    tenant      TEXT NOT NULL,
    method      TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    resource    TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (tenant, method, request_id)
) STRICT, WITHOUT ROWID;

-- delete_time makes a row a tombstone.
CREATE TABLE videos (
    tenant       TEXT NOT NULL,
    id           TEXT NOT NULL,
    display_name TEXT NOT NULL,
    size_bytes   INTEGER NOT NULL,
    sha256       BLOB NOT NULL,
    probe        TEXT NOT NULL,
    create_time  INTEGER NOT NULL,
    delete_time  INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

-- video is set when the upload has finished; next_part is never given out twice.
CREATE TABLE uploads (
    tenant       TEXT NOT NULL,
    id           TEXT NOT NULL,
    display_name TEXT NOT NULL,
    next_part    INTEGER NOT NULL DEFAULT 0,
    video        TEXT,
    create_time  INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_by_video ON uploads (tenant, video) WHERE video IS NOT NULL;

CREATE TABLE parts (
    tenant     TEXT NOT NULL,
    upload     TEXT NOT NULL,
    number     INTEGER NOT NULL,
    start      INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (tenant, upload, number),
    FOREIGN KEY (tenant, upload) REFERENCES uploads (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE TABLE datasets (
    tenant       TEXT NOT NULL,
    id           TEXT NOT NULL,
    display_name TEXT NOT NULL,
    create_time  INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE examples (
    tenant  TEXT NOT NULL,
    dataset TEXT NOT NULL,
    video   TEXT NOT NULL,
    label   TEXT NOT NULL,
    split   TEXT NOT NULL CHECK (split IN ('train', 'validation', 'test')),
    PRIMARY KEY (tenant, dataset, video),
    FOREIGN KEY (tenant, dataset) REFERENCES datasets (tenant, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant, video) REFERENCES videos (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX examples_by_video ON examples (tenant, video);
CREATE INDEX examples_by_label ON examples (tenant, dataset, label, split);

-- What a data set held at one moment, named by its content.
CREATE TABLE snapshots (
    tenant      TEXT NOT NULL,
    digest      BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (tenant, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshot_examples (
    tenant TEXT NOT NULL,
    digest BLOB NOT NULL,
    video  TEXT NOT NULL,
    label  TEXT NOT NULL,
    split  TEXT NOT NULL,
    PRIMARY KEY (tenant, digest, video),
    FOREIGN KEY (tenant, digest) REFERENCES snapshots (tenant, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_examples_by_video ON snapshot_examples (tenant, video);

-- An etag is incarnation and revision: a task that is made anew does not accept its predecessor's.
CREATE TABLE tasks (
    tenant        TEXT NOT NULL,
    id            TEXT NOT NULL,
    display_name  TEXT NOT NULL,
    adapter       TEXT NOT NULL,
    sampling      TEXT NOT NULL,
    auto_serve    INTEGER NOT NULL,
    serving       INTEGER,
    desired       INTEGER,
    serving_error TEXT,
    incarnation   TEXT NOT NULL,
    revision      INTEGER NOT NULL DEFAULT 1,
    create_time   INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX pending_tasks ON tasks (tenant, id) WHERE desired IS NOT serving;

-- Outlives the task, so that (tenant, task, version) never names two things.
CREATE TABLE version_numbers (
    tenant TEXT NOT NULL,
    task   TEXT NOT NULL,
    last   INTEGER NOT NULL,
    PRIMARY KEY (tenant, task)
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    tenant      TEXT NOT NULL,
    task        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    manifest    TEXT NOT NULL,
    sha256      BLOB NOT NULL,
    size_bytes  INTEGER NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (tenant, task, version),
    FOREIGN KEY (tenant, task) REFERENCES tasks (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- lease_end is set while a worker has the job; losses counts claims that ended without a word since the last checkpoint.
CREATE TABLE jobs (
    tenant           TEXT NOT NULL,
    id               TEXT NOT NULL,
    task             TEXT NOT NULL,
    dataset          TEXT NOT NULL,
    dataset_digest   BLOB NOT NULL,
    hyper_parameters TEXT NOT NULL,
    state            TEXT NOT NULL,
    reason           TEXT,
    message          TEXT,
    step             INTEGER NOT NULL DEFAULT 0,
    total_steps      INTEGER NOT NULL DEFAULT 0,
    attempts         INTEGER NOT NULL DEFAULT 0,
    losses           INTEGER NOT NULL DEFAULT 0,
    epoch            INTEGER NOT NULL DEFAULT 0,
    worker           TEXT,
    lease_end        INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    task_etag        TEXT NOT NULL,
    reserved_version INTEGER,
    checkpoint       TEXT,
    result           TEXT,
    last_event       INTEGER NOT NULL DEFAULT 0,
    create_time      INTEGER NOT NULL,
    end_time         INTEGER,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, dataset_digest) REFERENCES snapshots (tenant, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX unfinished_jobs ON jobs (state, create_time) WHERE end_time IS NULL;
CREATE INDEX unfinished_jobs_by_tenant ON jobs (tenant, task) WHERE end_time IS NULL;
CREATE INDEX leased_jobs ON jobs (tenant) WHERE lease_end IS NOT NULL;

CREATE TABLE events (
    tenant   TEXT NOT NULL,
    job      TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    event    TEXT NOT NULL,
    PRIMARY KEY (tenant, job, sequence),
    FOREIGN KEY (tenant, job) REFERENCES jobs (tenant, id)
) STRICT, WITHOUT ROWID;
