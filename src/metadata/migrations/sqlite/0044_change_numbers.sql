-- PostgreSQL gets other numbers of changes; SQLite, with its one writer, goes on counting.
SELECT 1;
