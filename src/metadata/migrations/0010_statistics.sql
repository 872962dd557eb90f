-- What the query planner takes the sizes of examples for. Without statistics it looks for the examples of a deleted video, as the foreign key asks,
-- among all examples of the tenant; these say that examples_by_video has far fewer for each video.
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('examples', 'examples', '1000000 100000 10000 1'),
    ('examples', 'examples_by_video', '1000000 100000 2');
ANALYZE sqlite_schema;
