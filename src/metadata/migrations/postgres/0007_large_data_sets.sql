-- What data sets of hundreds of thousands of examples need.

-- delete_time makes a data set one that is being removed: nobody sees it any more, its examples go in batches and its row last.
-- revision rises with every change of the examples; snapshot is the digest of what the data set holds, while somebody has taken that.
ALTER TABLE datasets ADD COLUMN delete_time BIGINT;
ALTER TABLE datasets ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
ALTER TABLE datasets ADD COLUMN snapshot BYTEA;
CREATE INDEX deleted_datasets ON datasets (delete_time) WHERE delete_time IS NOT NULL;

-- Videos that a job has decoded, and what that depends on: the sampling, the limits and the release, as one digest. Another job need not do it again.
CREATE TABLE decoded_videos (
    tenant   TEXT COLLATE "C" NOT NULL,
    video    TEXT COLLATE "C" NOT NULL,
    sampling BYTEA NOT NULL,
    PRIMARY KEY (tenant, video, sampling),
    FOREIGN KEY (tenant, video) REFERENCES videos (tenant, id) ON DELETE CASCADE
);
-- The table of schema 5 for the same purpose, by snapshot, was never written to.
DROP TABLE decoded_snapshots;
