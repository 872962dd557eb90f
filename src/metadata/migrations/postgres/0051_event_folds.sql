-- The events of a job that has ended, in one row: a line for each with its number, its time and its JSON. jobs.thinned is 3 between thinning and folding.
CREATE TABLE event_folds (
    tenant TEXT COLLATE "C" NOT NULL,
    job    TEXT COLLATE "C" NOT NULL,
    events TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, job),
    FOREIGN KEY (tenant, job) REFERENCES jobs (tenant, id) ON DELETE CASCADE
);
