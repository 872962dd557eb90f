-- Tenants whose data is being erased, or was: the record of that, which stays, so that an id is never given again. rows and objects are what was removed;
-- settle_time is when the last of it was seen to be gone, end_time when nothing can come any more.
CREATE TABLE erasures (
    tenant      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    principal   TEXT COLLATE "C" NOT NULL,
    begin_time  BIGINT NOT NULL,
    settle_time BIGINT,
    end_time    BIGINT,
    rows_gone   BIGINT NOT NULL DEFAULT 0,
    objects     BIGINT NOT NULL DEFAULT 0,
    bytes       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX erasures_under_way ON erasures (begin_time) WHERE end_time IS NULL;

-- Nothing of a tenant that is erased can come any more: a call may have been on its way. Rows of other tables need one of these. Whoever inserts shares a lock
-- that the begin of the erasure waits for, so that what was on its way is either there before the erasure or refused. The locks
-- are few, for a transaction may insert rows of many tenants.
CREATE FUNCTION refuse_erased() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1718773363, hashtext(NEW.tenant) & 255);
    IF EXISTS (SELECT 1 FROM erasures WHERE erasures.tenant = NEW.tenant AND (TG_ARGV[0] = 'ever' OR end_time IS NOT NULL)) THEN
        RAISE EXCEPTION 'the tenant was erased' USING ERRCODE = 'FE001';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION await_inserts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1718773363, hashtext(NEW.tenant) & 255);
    RETURN NEW;
END $$;
CREATE TRIGGER erasures_await BEFORE INSERT ON erasures FOR EACH ROW EXECUTE FUNCTION await_inserts();
CREATE TRIGGER requests_of_erased BEFORE INSERT ON requests FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER videos_of_erased BEFORE INSERT ON videos FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER uploads_of_erased BEFORE INSERT ON uploads FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER datasets_of_erased BEFORE INSERT ON datasets FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER snapshots_of_erased BEFORE INSERT ON snapshots FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER jobs_of_erased BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER tasks_of_erased BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER version_numbers_of_erased BEFORE INSERT ON version_numbers FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER tenants_of_erased BEFORE INSERT ON tenants FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER tenant_usage_of_erased BEFORE INSERT ON tenant_usage FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER usage_hours_of_erased BEFORE INSERT ON usage_hours FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER demands_of_erased BEFORE INSERT ON demands FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
CREATE TRIGGER changes_of_erased BEFORE INSERT ON changes FOR EACH ROW EXECUTE FUNCTION refuse_erased('end');

-- Numbers of transactions that were open when changes were forgotten last, as JSON: none of the forgotten ones is theirs, so that who waits for one of them has
-- missed nothing.
ALTER TABLE change_feed ADD COLUMN forgotten_open TEXT NOT NULL DEFAULT '[]';
