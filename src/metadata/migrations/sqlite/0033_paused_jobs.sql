-- paused: the owner wants the job to wait. priority: of the waiting jobs of a tenant, those with a higher one go first.
ALTER TABLE jobs ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
DROP INDEX waiting_jobs;
CREATE INDEX waiting_jobs ON jobs (tenant, priority DESC, create_time, id) WHERE state = 'queued' AND paused = 0;
