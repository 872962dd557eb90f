-- weight: the tenant's share of device, decoders and trainers relative to the others'. The limits of a second are those of all servers together; absent
-- means no limit. The times are in microseconds; absent means that the server's own apply, of videos that they stay.
ALTER TABLE tenants ADD COLUMN weight INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tenants ADD COLUMN clip_frames_rate INTEGER;
ALTER TABLE tenants ADD COLUMN requests_rate INTEGER;
ALTER TABLE tenants ADD COLUMN videos_age INTEGER;
ALTER TABLE tenants ADD COLUMN jobs_age INTEGER;
ALTER TABLE tenants ADD COLUMN uploads_age INTEGER;
-- What the janitor looks for.
CREATE INDEX tenants_with_video_age ON tenants (tenant) WHERE videos_age IS NOT NULL;
CREATE INDEX videos_by_age ON videos (tenant, create_time, id) WHERE delete_time IS NULL;
CREATE INDEX ended_jobs_by_tenant ON jobs (tenant, end_time) WHERE end_time IS NOT NULL;
