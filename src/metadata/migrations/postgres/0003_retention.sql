-- What is begun and never ended goes after a time, and what has ended is thinned and goes in the end.

-- expire_time is set while an upload is unfinished; end_time makes a row a tombstone, which tells an upload that expired from one that never was.
-- committed is the sum of the parts' sizes.
ALTER TABLE uploads ADD COLUMN committed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN expire_time BIGINT;
ALTER TABLE uploads ADD COLUMN end_time BIGINT;
ALTER TABLE uploads ADD COLUMN ending TEXT COLLATE "C" CHECK (ending IN ('deleted', 'expired'));
CREATE INDEX unfinished_uploads ON uploads (expire_time) WHERE expire_time IS NOT NULL;
CREATE INDEX unfinished_uploads_by_tenant ON uploads (tenant, id) WHERE expire_time IS NOT NULL;
CREATE INDEX ended_uploads ON uploads (end_time) WHERE end_time IS NOT NULL;

-- The digest is over what was asked for; rows of the release before have none.
ALTER TABLE requests ADD COLUMN digest BYTEA;
CREATE INDEX requests_by_time ON requests (create_time);

-- forgotten: 0 the examples are there, 1 they are being removed, 2 none is left and only the digest stays for the jobs that name it.
ALTER TABLE snapshots ADD COLUMN forgotten BIGINT NOT NULL DEFAULT 0;
CREATE INDEX snapshots_with_examples ON snapshots (create_time) WHERE forgotten < 2;
CREATE INDEX jobs_by_snapshot ON jobs (tenant, dataset_digest);

-- thinned: 0 every event is there, 1 a sample of the steps, 2 changes of state only.
ALTER TABLE jobs ADD COLUMN thinned BIGINT NOT NULL DEFAULT 0;
CREATE INDEX ended_jobs ON jobs (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX ended_jobs_by_events ON jobs (thinned, end_time) WHERE end_time IS NOT NULL;

-- How many examples of a label each split of a data set has: kept by whatever changes examples, so that nobody counts them.
CREATE TABLE label_counts (
    tenant     TEXT COLLATE "C" NOT NULL,
    dataset    TEXT COLLATE "C" NOT NULL,
    label      TEXT COLLATE "C" NOT NULL,
    train      BIGINT NOT NULL,
    validation BIGINT NOT NULL,
    test       BIGINT NOT NULL,
    PRIMARY KEY (tenant, dataset, label),
    FOREIGN KEY (tenant, dataset) REFERENCES datasets (tenant, id) ON DELETE CASCADE
);
ALTER TABLE datasets ADD COLUMN labels BIGINT NOT NULL DEFAULT 0;
ALTER TABLE datasets ADD COLUMN examples BIGINT NOT NULL DEFAULT 0;
DROP INDEX examples_by_label;
