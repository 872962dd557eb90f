-- Waiting jobs are taken by start_tag, the lowest first: where the job begins when tenants take turns by clip-frames. finish_tag: where it ends.
ALTER TABLE jobs ADD COLUMN start_tag INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN finish_tag INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_by_start ON jobs (backbone, start_tag, id)
    WHERE state = 'queued' AND paused = 0 AND suspect_step IS NULL;
CREATE INDEX jobs_by_finish ON jobs (tenant, finish_tag) WHERE end_time IS NULL OR claim_time > 0;
CREATE INDEX claimed_starts ON jobs (start_tag) WHERE claim_time > 0;
-- Jobs of the release before take turns as well, as if each had 16,000 clip-frames: those that were begun go first.
UPDATE jobs SET start_tag = (place - 1) * 16000000, finish_tag = place * 16000000
    FROM (SELECT tenant AS of_tenant, id AS of_job, ROW_NUMBER() OVER (PARTITION BY tenant
        ORDER BY CASE WHEN claim_time > 0 THEN 0 ELSE 1 END, priority DESC, create_time, id) AS place
        FROM jobs WHERE end_time IS NULL) AS turns
    WHERE tenant = of_tenant AND id = of_job;

-- lost_worker: the last worker that ended without a word while it had the job, until the job has a new checkpoint.
ALTER TABLE jobs ADD COLUMN lost_worker TEXT;
CREATE INDEX lost_jobs ON jobs (tenant) WHERE lost_worker IS NOT NULL AND end_time IS NULL;

-- One row: the highest start_tag of a job that was claimed and is deleted, below which no turn begins any more.
CREATE TABLE turns (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    tag INTEGER NOT NULL
) STRICT;
INSERT INTO turns (one, tag) VALUES (1, 0);
CREATE TRIGGER turns_of_deleted AFTER DELETE ON jobs WHEN OLD.claim_time > 0
BEGIN UPDATE turns SET tag = OLD.start_tag WHERE tag < OLD.start_tag; END;
