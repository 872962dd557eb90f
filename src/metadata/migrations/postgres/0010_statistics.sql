-- SQLite's planner gets its statistics with this number; PostgreSQL gathers its own.
SELECT 1;
