-- split: how requests are shared out among versions, when not all go to the serving one; previous: what served before the desired version was asked for,
-- which a rollback asks for again; split_pending: whether a version of the split has still to be proved.
ALTER TABLE tasks ADD COLUMN split TEXT;
ALTER TABLE tasks ADD COLUMN previous TEXT;
ALTER TABLE tasks ADD COLUMN split_pending INTEGER NOT NULL DEFAULT 0;
CREATE INDEX pending_splits ON tasks (tenant, id) WHERE split_pending = 1;

-- pinned: whether the versions that serve the task are to stay in memory.
ALTER TABLE tasks ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
CREATE INDEX pinned_tasks ON tasks (tenant, id) WHERE pinned = 1;
