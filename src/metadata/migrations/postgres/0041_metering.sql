-- What tenants used in each hour since the Unix epoch: calls, clip-frames that were answered, clip-frames of training steps, and the bytes that were stored
-- when the hour was first looked at. task is empty for what belongs to no task; tenant is empty for what was counted beyond the bound of a server's memory.
CREATE TABLE usage_hours (
    tenant              TEXT COLLATE "C" NOT NULL,
    hour                BIGINT NOT NULL,
    task                TEXT COLLATE "C" NOT NULL,
    requests            BIGINT NOT NULL,
    clip_frames         BIGINT NOT NULL,
    trained_clip_frames BIGINT NOT NULL,
    stored_bytes        BIGINT NOT NULL,
    PRIMARY KEY (tenant, hour, task)
);
CREATE INDEX usage_by_hour ON usage_hours (hour, tenant, task);

-- The newest batch of counts that each process has brought, so that one which comes twice counts once.
CREATE TABLE usage_batches (
    process  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    sequence BIGINT NOT NULL,
    time     BIGINT NOT NULL
);
CREATE INDEX usage_batches_by_time ON usage_batches (time);

-- What each process was asked for by tenants with limits of a second, in its last window.
CREATE TABLE demands (
    tenant      TEXT COLLATE "C" NOT NULL,
    process     TEXT COLLATE "C" NOT NULL,
    clip_frames BIGINT NOT NULL,
    requests    BIGINT NOT NULL,
    time        BIGINT NOT NULL,
    PRIMARY KEY (tenant, process)
);
CREATE INDEX demands_by_time ON demands (time);
