-- Versions of data sets: numbered snapshots whose examples are kept until the version is deleted, or the data set.
CREATE TABLE dataset_versions (
    tenant      TEXT NOT NULL,
    dataset     TEXT NOT NULL,
    number      INTEGER NOT NULL,
    digest      BLOB NOT NULL,
    examples    INTEGER NOT NULL,
    note        TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (tenant, dataset, number),
    FOREIGN KEY (tenant, dataset) REFERENCES datasets (tenant, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX dataset_versions_by_digest ON dataset_versions (tenant, digest);
-- The largest number that a version of the data set was given.
ALTER TABLE datasets ADD COLUMN versions INTEGER NOT NULL DEFAULT 0;
CREATE TRIGGER dataset_versions_of_erased BEFORE INSERT ON dataset_versions
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
