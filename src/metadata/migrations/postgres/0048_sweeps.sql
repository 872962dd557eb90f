-- Searches over many jobs. spec and progress are JSON; revision rises with every change; backbone is that of the servers that may move the sweep on.
CREATE TABLE sweeps (
    tenant           TEXT COLLATE "C" NOT NULL,
    id               TEXT COLLATE "C" NOT NULL,
    spec             TEXT COLLATE "C" NOT NULL,
    progress         TEXT COLLATE "C" NOT NULL,
    state            TEXT COLLATE "C" NOT NULL,
    message          TEXT COLLATE "C",
    revision         BIGINT NOT NULL DEFAULT 0,
    cancel_requested BIGINT NOT NULL DEFAULT 0,
    backbone         TEXT COLLATE "C",
    create_time      BIGINT NOT NULL,
    end_time         BIGINT,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX open_sweeps ON sweeps (create_time) WHERE end_time IS NULL;
CREATE INDEX ended_sweeps ON sweeps (end_time) WHERE end_time IS NOT NULL;
CREATE TRIGGER sweeps_of_erased BEFORE INSERT ON sweeps FOR EACH ROW EXECUTE FUNCTION refuse_erased('ever');
