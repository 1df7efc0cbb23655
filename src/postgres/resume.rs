//! Requests to resume a stopped pipeline. They are counted in the pipeline's row, which every instance that shares the database
//! can read.

use sqlx::{PgConnection, Row};

/// Returns how many times the pipeline was asked to resume; `None` if the database doesn't know the pipeline.
///
/// # Errors
/// The error of the statement.
pub async fn count(connection: &mut PgConnection, pipeline: &str) -> Result<Option<i64>, sqlx::Error> {
    let row = sqlx::query("SELECT resumes FROM tidegate.pipeline WHERE name = $1").bind(pipeline);
    row.fetch_optional(connection).await?.map(|row| row.try_get(0)).transpose()
}

/// Requests that every instance on which the pipeline is stopped resume it. Returns false if the database doesn't know the
/// pipeline.
///
/// # Errors
/// The error of the statement.
pub async fn request(connection: &mut PgConnection, pipeline: &str) -> Result<bool, sqlx::Error> {
    let request = sqlx::query("UPDATE tidegate.pipeline SET resumes = resumes + 1 WHERE name = $1").bind(pipeline);
    Ok(request.execute(connection).await?.rows_affected() > 0)
}
