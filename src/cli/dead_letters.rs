//! `tidegate dead-letters`: lists, shows, replays and purges the records that could not become rows.

mod letter;
mod list;
mod purge;
mod replay;

use clap::builder::PossibleValuesParser;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};
use tidegate_rows::value::Reason;

use super::reach;
use crate::config::units::parse_duration;
use crate::config::{Config, Pipeline};
use crate::error::FatalError;
use crate::metrics::epoch_ms;
use crate::postgres::dead_letter_cleanup;

/// Subcommands of `dead-letters`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Counts dead letters by pipeline and reason, and lists the newest.
    List(list::Arguments),
    /// Shows one dead letter with its key, value, headers and fault.
    Show(letter::Arguments),
    /// Tries dead letters again with the current configuration. Writing a record's rows and deleting its dead letter is one
    /// transaction. A record that still can't become rows stays a dead letter.
    Replay(replay::Arguments),
    /// Deletes dead letters for good. Their records are lost unless Kafka still has them.
    Purge(purge::Arguments),
}

/// Selects dead letters.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Filter {
    /// Only the dead letter with this id. May be given several times.
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<i64>,
    /// Only dead letters with this reason, as `list` shows it.
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::ALL.map(Reason::code)))]
    reason: Option<String>,
    /// Only dead letters from this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only dead letters stored at or after this RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<i64>,
    /// Only dead letters stored before this RFC 3339 time.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<i64>,
    /// Only dead letters stored longer ago than this, such as 30d.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "until")]
    older_than: Option<std::time::Duration>,
}

fn time_ms(text: &str) -> Result<i64, String> {
    let time = text.parse::<jiff::Timestamp>();
    time.map(jiff::Timestamp::as_millisecond)
        .map_err(|_| format!("{text:?} is not a time such as 2026-01-31T12:00:00Z"))
}

/// Joins `$before`, the `WHERE` conditions of a [`Filter`] and `$after` into one statement. [`Filter::bind`] fills in the
/// parameters of the conditions.
macro_rules! matching {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " WHERE pipeline = ANY ($1) AND ($2::int8[] IS NULL OR id = ANY ($2)) AND ($3::text IS NULL OR reason = $3)
                AND ($4::text IS NULL OR topic = $4)
                AND ($5::int8 IS NULL OR created_at >= to_timestamp($5 / 1000.0))
                AND ($6::int8 IS NULL OR created_at < to_timestamp($6 / 1000.0)) ",
            $after
        )
    };
}
use matching;

impl Filter {
    fn is_everything(&self) -> bool {
        let Self { ids, reason, topic, since, until, older_than } = self;
        ids.is_empty()
            && reason.is_none()
            && topic.is_none()
            && since.is_none()
            && until.is_none()
            && older_than.is_none()
    }

    /// Fails if the filter selects all dead letters but `all` (the option `--all`) is false. Also fails if the filter selects
    /// only some and `all` is true.
    fn check(&self, all: bool) -> Result<(), FatalError> {
        if all == self.is_everything() {
            return Ok(());
        }
        Err(FatalError::Config(
            "select the dead letters by --id, --reason, --topic, --since, --until or --older-than; or select all of them by --all, \
             without these options"
                .to_owned(),
        ))
    }

    /// Fails if a dead letter of `--id` doesn't exist or belongs to another pipeline. `keys` are the keys of `pipelines`, from
    /// [`keys`].
    async fn find_ids(
        &self,
        connection: &mut PgConnection,
        keys: &[String],
        pipelines: &[&Pipeline],
    ) -> Result<(), FatalError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let found =
            sqlx::query_scalar("SELECT id FROM tidegate.dead_letter WHERE id = ANY ($1) AND pipeline = ANY ($2)");
        let found: Vec<i64> = found.bind(&self.ids).bind(keys).fetch_all(connection).await.map_err(failed)?;
        match self.ids.iter().find(|id| !found.contains(id)) {
            Some(id) => Err(unknown(*id, pipelines)),
            None => Ok(()),
        }
    }

    /// Binds the parameters of a statement that [`matching`] made. `keys` are the keys under which the selected dead letters are
    /// stored; see [`keys`].
    fn bind<'q>(&self, sql: &'q str, keys: &[String]) -> Query<'q, Postgres, PgArguments> {
        let until = self.older_than.map(|age| epoch_ms() - i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        sqlx::query(sql)
            .bind(keys.to_vec())
            .bind((!self.ids.is_empty()).then(|| self.ids.clone()))
            .bind(self.reason.clone())
            .bind(self.topic.clone())
            .bind(self.since)
            .bind(until.or(self.until))
    }
}

pub(super) async fn run(command: &Command) -> Result<(), FatalError> {
    match command {
        Command::List(arguments) => list::run(arguments).await,
        Command::Show(arguments) => letter::run(arguments).await,
        Command::Replay(arguments) => replay::run(arguments).await,
        Command::Purge(arguments) => purge::run(arguments).await,
    }
}

fn unknown(id: i64, pipelines: &[&Pipeline]) -> FatalError {
    let names: Vec<&str> = pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    FatalError::Config(format!(
        "there is no dead letter {id} of {}; `tidegate dead-letters list` shows those that exist",
        names.join(", ")
    ))
}

fn failed(error: sqlx::Error) -> FatalError {
    reach::failed("can't read the dead letters in schema `tidegate`", error)
}

/// Returns the keys under which the dead letters of these pipelines are stored. A pipeline has its name as a key, and a key for
/// each of its replays by `tidegate replay`.
async fn keys(connection: &mut PgConnection, pipelines: &[&Pipeline]) -> Result<Vec<String>, FatalError> {
    let names: Vec<&str> = pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    dead_letter_cleanup::keys(connection, &names).await.map_err(failed)
}

/// Opens a connection to the database. Fails if the database has no schema `tidegate`.
async fn open(config: &Config) -> Result<PgConnection, FatalError> {
    let mut connection = reach::open(&reach::connector(config)).await?;
    if reach::has_ledger(&mut connection).await.map_err(failed)? {
        return Ok(connection);
    }
    Err(FatalError::Config(
        "this database has no schema `tidegate`, so no pipeline was ever started on it: check `postgres.url`"
            .to_owned(),
    ))
}
