-- What the query planner takes the sizes of tables for. Without statistics it looks for the examples of a deleted video, and the jobs of a forgotten
-- snapshot, as their foreign keys ask, among all that the tenant has; these say how much fewer the indices give.
ANALYZE sqlite_schema;
INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES
    ('examples', 'examples', '1000000 100000 10000 1'),
    ('examples', 'examples_by_video', '1000000 100000 2'),
    ('jobs', 'jobs', '100000 10000 1'),
    ('jobs', 'jobs_by_snapshot', '100000 10000 10');
ANALYZE sqlite_schema;
