-- Versions of data sets: numbered snapshots whose examples are kept until the version is deleted, or the data set.
CREATE TABLE dataset_versions (
    tenant      TEXT COLLATE "C" NOT NULL,
    dataset     TEXT COLLATE "C" NOT NULL,
    number      BIGINT NOT NULL,
    digest      BYTEA NOT NULL,
    examples    BIGINT NOT NULL,
    note        TEXT COLLATE "C" NOT NULL,
    create_time BIGINT NOT NULL,
    PRIMARY KEY (tenant, dataset, number),
    FOREIGN KEY (tenant, dataset) REFERENCES datasets (tenant, id) ON DELETE CASCADE
);
CREATE INDEX dataset_versions_by_digest ON dataset_versions (tenant, digest);
-- The largest number that a version of the data set was given.
ALTER TABLE datasets ADD COLUMN versions BIGINT NOT NULL DEFAULT 0;
CREATE TRIGGER dataset_versions_of_erased BEFORE INSERT ON dataset_versions FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
