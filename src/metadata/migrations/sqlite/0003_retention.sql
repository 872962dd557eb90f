-- What is begun and never ended goes after a time, and what has ended is thinned and goes in the end.

-- expire_time is set while an upload is unfinished; end_time makes a row a tombstone, which tells an upload that expired from one that never was.
-- committed is the sum of the parts' sizes.
ALTER TABLE uploads ADD COLUMN committed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE uploads ADD COLUMN expire_time INTEGER;
ALTER TABLE uploads ADD COLUMN end_time INTEGER;
ALTER TABLE uploads ADD COLUMN ending TEXT CHECK (ending IN ('deleted', 'expired'));
-- Uploads of the release before get a day from now.
UPDATE uploads SET
    expire_time = CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER) + 86400000000,
    committed = (
        SELECT COALESCE(SUM(parts.size_bytes), 0) FROM parts
        WHERE parts.tenant = uploads.tenant AND parts.upload = uploads.id
    )
WHERE video IS NULL;
CREATE INDEX unfinished_uploads ON uploads (expire_time) WHERE expire_time IS NOT NULL;
CREATE INDEX unfinished_uploads_by_tenant ON uploads (tenant, id) WHERE expire_time IS NOT NULL;
CREATE INDEX ended_uploads ON uploads (end_time) WHERE end_time IS NOT NULL;

-- The digest is over what was asked for; rows of the release before have none.
ALTER TABLE requests ADD COLUMN digest BLOB;
CREATE INDEX requests_by_time ON requests (create_time);

-- forgotten: 0 the examples are there, 1 they are being removed, 2 none is left and only the digest stays for the jobs that name it.
ALTER TABLE snapshots ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
CREATE INDEX snapshots_with_examples ON snapshots (create_time) WHERE forgotten < 2;
CREATE INDEX jobs_by_snapshot ON jobs (tenant, dataset_digest);

-- thinned: 0 every event is there, 1 a sample of the steps, 2 changes of state only.
ALTER TABLE jobs ADD COLUMN thinned INTEGER NOT NULL DEFAULT 0;
CREATE INDEX ended_jobs ON jobs (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX ended_jobs_by_events ON jobs (thinned, end_time) WHERE end_time IS NOT NULL;

-- How many examples of a label each split of a data set has: kept by whatever changes examples, so that nobody counts them.
CREATE TABLE label_counts (
    tenant     TEXT NOT NULL,
    dataset    TEXT NOT NULL,
    label      TEXT NOT NULL,
    train      INTEGER NOT NULL,
    validation INTEGER NOT NULL,
    test       INTEGER NOT NULL,
    PRIMARY KEY (tenant, dataset, label),
    FOREIGN KEY (tenant, dataset) REFERENCES datasets (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO label_counts (tenant, dataset, label, train, validation, test)
    SELECT tenant, dataset, label, SUM(split = 'train'), SUM(split = 'validation'), SUM(split = 'test')
    FROM examples GROUP BY tenant, dataset, label;
ALTER TABLE datasets ADD COLUMN labels INTEGER NOT NULL DEFAULT 0;
ALTER TABLE datasets ADD COLUMN examples INTEGER NOT NULL DEFAULT 0;
UPDATE datasets SET
    labels = (
        SELECT COUNT(*) FROM label_counts
        WHERE label_counts.tenant = datasets.tenant AND label_counts.dataset = datasets.id
    ),
    examples = (
        SELECT COUNT(*) FROM examples
        WHERE examples.tenant = datasets.tenant AND examples.dataset = datasets.id
    );
DROP INDEX examples_by_label;
