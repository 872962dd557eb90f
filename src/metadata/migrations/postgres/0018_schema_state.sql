-- One row: the oldest migration that a release has to bring to run on this schema. A migration that takes something away which the release before needs
-- raises it.
CREATE TABLE schema_state (
    one         BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    min_release BIGINT NOT NULL
);
INSERT INTO schema_state (one, min_release) VALUES (1, 0);
