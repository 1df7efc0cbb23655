-- The number of requests by `tidegate pipelines resume`. Each instance on which the pipeline has stopped starts it again when
-- the number increases.
ALTER TABLE tidegate.pipeline ADD COLUMN resumes bigint NOT NULL DEFAULT 0;
