-- Random keys that every server of the database seals something with. page: tokens of pages, so that one of another tenant, or one that somebody made up,
-- is not looked at. They open nothing that the database does not hold itself.
CREATE TABLE seals (
    purpose TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    key     BYTEA NOT NULL
);
