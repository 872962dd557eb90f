-- errors: internal errors since the newest checkpoint; losses: crashes since then that the job was charged with.
-- crashes: how often in a row the process ended while the job ran alone at crash_step, with crash_checked examples checked.
-- suspect_step: the job ran at this step when a process ended, and has not shown since that it was not the cause.
-- not_before: when it may be claimed again; claim_time: when its newest claim was made; checked: examples that validation has decoded.
ALTER TABLE jobs ADD COLUMN errors BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN crashes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN crash_step BIGINT;
ALTER TABLE jobs ADD COLUMN crash_checked BIGINT;
ALTER TABLE jobs ADD COLUMN suspect_step BIGINT;
ALTER TABLE jobs ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN claim_time BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN checked BIGINT NOT NULL DEFAULT 0;

-- The conditions are repeated word for word by the queries: a bound parameter would not match a partial index.
CREATE INDEX waiting_jobs ON jobs (tenant, create_time, id) WHERE state = 'queued';
CREATE INDEX suspected_jobs ON jobs (claim_time) WHERE suspect_step IS NOT NULL AND state = 'queued';

-- How far the examples of a snapshot have been decoded under a sampling, in the order of their videos' ids: none of them was refused.
-- A later job goes on after `video` instead of decoding everything again.
CREATE TABLE decoded_snapshots (
    tenant   TEXT COLLATE "C" NOT NULL,
    digest   BYTEA NOT NULL,
    sampling TEXT COLLATE "C" NOT NULL,
    video    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, digest, sampling),
    FOREIGN KEY (tenant, digest) REFERENCES snapshots (tenant, digest) ON DELETE CASCADE
);

-- A snapshot is written in pages; it can be read once it is complete.
ALTER TABLE snapshots ADD COLUMN complete BIGINT NOT NULL DEFAULT 1;
