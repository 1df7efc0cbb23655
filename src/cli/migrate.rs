//! `tidegate migrate`: creates or updates the tables of schema `tidegate` by hand, for databases in which the daemon's role has
//! no right to do so.

use sqlx::Executor as _;

use super::{Files, reach, show};
use crate::error::FatalError;
use crate::postgres::schema;

/// Arguments of `migrate`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("action").args(["print", "apply"]).required(true)))]
pub(super) struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Print the SQL that `--apply` would run. Changes nothing.
    #[arg(long)]
    print: bool,
    /// Run the SQL. The user of `postgres.url` must own schema `tidegate`, or have the right to create it.
    #[arg(long)]
    apply: bool,
    /// Also grant this role, which must exist, the rights that a daemon needs in schema `tidegate`.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = super::load_quietly(&arguments.files)?;
    let mut connection = reach::open(&reach::connector(&config)).await?;
    let grants = arguments.role.as_deref().map(schema::grants).unwrap_or_default();
    if arguments.print {
        let script = schema::script(&mut connection)
            .await
            .map_err(|error| reach::failed("can't read what is applied", error))?;
        let script = script.unwrap_or_else(|| "-- The tables of schema tidegate are up to date.\n".to_owned());
        return show::print(format!("{script}{grants}").trim_end());
    }
    let pending =
        schema::pending(&mut connection).await.map_err(|error| reach::failed("can't read what is applied", error))?;
    schema::migrate(&mut connection).await.map_err(|error| reach::not_migrated(&error))?;
    if !grants.is_empty() {
        connection.execute(&*grants).await.map_err(|error| reach::failed("can't grant the rights", error))?;
    }
    let applied =
        if pending.is_empty() { "nothing was missing".to_owned() } else { format!("applied {}", pending.join(", ")) };
    let granted =
        arguments.role.as_ref().map(|role| format!("; role `{role}` has the rights of a daemon")).unwrap_or_default();
    show::print(&format!("{applied}{granted}"))
}
