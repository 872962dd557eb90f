-- When an operator asked that the process drain and end; absent while nobody has. The process itself reads it.
ALTER TABLE replicas ADD COLUMN drain_time BIGINT;
