-- proof: the process that loads and warms up what is asked of the task; until proof_end nobody else does. Without a process, only one that has a version
-- of the task in memory may begin before proof_end.
ALTER TABLE tasks ADD COLUMN proof TEXT COLLATE "C";
ALTER TABLE tasks ADD COLUMN proof_end BIGINT;
-- Versions that cannot serve are not looked at again and again.
DROP INDEX pending_tasks;
CREATE INDEX pending_tasks ON tasks (tenant, id) WHERE desired IS DISTINCT FROM serving AND serving_error IS NULL;

-- What each process says of itself every few seconds. report: JSON of what is only shown.
CREATE TABLE replicas (
    name        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    report      TEXT COLLATE "C" NOT NULL,
    report_time BIGINT NOT NULL
);
