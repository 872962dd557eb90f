-- sequence: the number of the transaction that made the change, several of whose changes have the same. Readers of the feed tell by it what they could
-- see and what they could not, so that no row is locked to give numbers out. change_feed.newest is for servers of the release before, which count in it.
DROP INDEX changes_by_sequence;
UPDATE changes SET sequence = 0;
UPDATE change_feed SET newest = 0, forgotten = 0;
CREATE INDEX changes_by_sequence ON changes (sequence, tenant, kind, id);

-- Servers of the release before give other numbers, and readers of this one would never see those.
CREATE FUNCTION number_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.sequence := CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT);
    RETURN NEW;
END $$;
CREATE TRIGGER changes_are_numbered BEFORE INSERT OR UPDATE ON changes FOR EACH ROW EXECUTE FUNCTION number_change();

-- One row, for as long as the server has lost nothing: an unlogged table is empty after a crash, a failover or the restore of a copy, after which numbers of
-- transactions that had not reached the disk are given again.
CREATE UNLOGGED TABLE change_epoch (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    id  TEXT COLLATE "C" NOT NULL
);
