-- What tenants used in each hour since the Unix epoch: calls, clip-frames that were answered, clip-frames of training steps, and the bytes that were stored
-- when the hour was first looked at. task is empty for what belongs to no task; tenant is empty for what was counted beyond the bound of a server's memory.
CREATE TABLE usage_hours (
    tenant              TEXT NOT NULL,
    hour                INTEGER NOT NULL,
    task                TEXT NOT NULL,
    requests            INTEGER NOT NULL,
    clip_frames         INTEGER NOT NULL,
    trained_clip_frames INTEGER NOT NULL,
    stored_bytes        INTEGER NOT NULL,
    PRIMARY KEY (tenant, hour, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_hour ON usage_hours (hour, tenant, task);

-- The newest batch of counts that each process has brought, so that one which comes twice counts once.
CREATE TABLE usage_batches (
    process  TEXT NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL,
    time     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_batches_by_time ON usage_batches (time);

-- What each process was asked for by tenants with limits of a second, in its last window.
CREATE TABLE demands (
    tenant      TEXT NOT NULL,
    process     TEXT NOT NULL,
    clip_frames INTEGER NOT NULL,
    requests    INTEGER NOT NULL,
    time        INTEGER NOT NULL,
    PRIMARY KEY (tenant, process)
) STRICT, WITHOUT ROWID;
CREATE INDEX demands_by_time ON demands (time);
