-- auto_head: jobs of the task also train heads without adapters, and publish the best.
ALTER TABLE tasks ADD COLUMN auto_head BIGINT NOT NULL DEFAULT 0;
