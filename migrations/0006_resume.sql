-- How often `tidegate pipelines resume` was run. An instance whose pipeline has stopped starts it again when the number moves.
ALTER TABLE tidegate.pipeline ADD COLUMN resumes bigint NOT NULL DEFAULT 0;
