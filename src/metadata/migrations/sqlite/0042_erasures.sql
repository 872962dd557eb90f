-- Tenants whose data is being erased, or was: the record of that, which stays, so that an id is never given again. rows and objects are what was removed;
-- settle_time is when the last of it was seen to be gone, end_time when nothing can come any more.
CREATE TABLE erasures (
    tenant      TEXT NOT NULL PRIMARY KEY,
    principal   TEXT NOT NULL,
    begin_time  INTEGER NOT NULL,
    settle_time INTEGER,
    end_time    INTEGER,
    rows_gone   INTEGER NOT NULL DEFAULT 0,
    objects     INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX erasures_under_way ON erasures (begin_time) WHERE end_time IS NULL;

-- Nothing of a tenant that is erased can come any more: a call may have been on its way. Rows of other tables need one of these.
CREATE TRIGGER requests_of_erased BEFORE INSERT ON requests
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER videos_of_erased BEFORE INSERT ON videos
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER uploads_of_erased BEFORE INSERT ON uploads
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER datasets_of_erased BEFORE INSERT ON datasets
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER snapshots_of_erased BEFORE INSERT ON snapshots
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER jobs_of_erased BEFORE INSERT ON jobs
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER tasks_of_erased BEFORE INSERT ON tasks
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER version_numbers_of_erased BEFORE INSERT ON version_numbers
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER tenants_of_erased BEFORE INSERT ON tenants
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER tenant_usage_of_erased BEFORE INSERT ON tenant_usage
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER usage_hours_of_erased BEFORE INSERT ON usage_hours
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER demands_of_erased BEFORE INSERT ON demands
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;
CREATE TRIGGER changes_of_erased BEFORE INSERT ON changes
WHEN EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant AND end_time IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'the tenant was erased'); END;

-- Numbers of transactions that were open when changes were forgotten last, as JSON: none of the forgotten ones is theirs, so that who waits for one of them has
-- missed nothing.
ALTER TABLE change_feed ADD COLUMN forgotten_open TEXT NOT NULL DEFAULT '[]';

-- Several changes of one transaction may have one number.
DROP INDEX changes_by_sequence;
CREATE INDEX changes_by_sequence ON changes (sequence, tenant, kind, id);
