//! The stand-ins for tables: temporary views and tables. The trial of `check` writes to them if a write to the table itself might
//! leave something behind. ROLLBACK undoes rows, but it doesn't undo `nextval`: a rolled-back row of a serial column still uses
//! up a number.
//!
//! - If defaults draw from a sequence, the rows are written through a temporary view of the table. The view's defaults draw from
//!   temporary sequences. The table's constraints, triggers, row security and existing rows still apply.
//! - Triggers, and defaults that call functions, may draw from any sequence. They first run on a temporary table in a read-only
//!   transaction, in which Postgres refuses every draw and every write, except in temporary relations. If nothing was refused,
//!   the rows are then tried on the table itself.
//! - If a trigger or default can't be tried safely on the table itself, the report names it. The rows are then only tried on a
//!   temporary table.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row};
use tidegate_rows::catalog::{Catalog, RelationKind, TableName, quote_identifier};
use tidegate_rows::spec::WriteMode;

use crate::config::Pipeline;

/// How many numbers the trial skips in a sequence, so that it uses none that clients draw meanwhile. It skips at most half of the
/// sequence's remaining numbers, because a default may put the number into a text of limited length.
const AHEAD: i128 = 1_000_000;

/// The stand-ins of one trial. [`Trials::add`] fills the setup, and [`super::sample::try_records`] runs the trial.
#[derive(Clone, Debug, Default)]
pub(super) struct Setup {
    /// Statements that create the stand-ins. Each transaction of the trial begins with them.
    pub(super) make: Vec<String>,
    /// The catalogs of the stand-ins. Each key is the oid of the table that is replaced, as in the plan.
    pub(super) targets: BTreeMap<u32, Catalog>,
    /// Statements that run before the rows for the report are read. They set the temporary sequences to the numbers that `run`
    /// would draw.
    pub(super) show: Vec<String>,
    /// Whether the transaction becomes read-only after the stand-ins were created.
    pub(super) read_only: bool,
    /// Whether the creation of partitions is switched off, for example because the stand-ins are temporary tables.
    pub(super) no_partitions: bool,
}

/// The possible trials of a pipeline's tables, in the order in which they are tried.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// The trial that runs triggers and functions on temporary tables in a read-only transaction, where they can't change
    /// anything. `None` if [`Self::suspects`] is empty, or if such a trial isn't possible.
    pub(super) guarded: Option<Setup>,
    /// The trial that writes to the tables themselves, or through a view if one of a table's defaults draws from a sequence.
    pub(super) direct: Setup,
    /// The trial that writes to temporary tables, runs no trigger, and calls no function that may change anything.
    pub(super) bare: Setup,
    /// Triggers and defaults that may change something, as text for people.
    pub(super) suspects: Vec<String>,
    /// The reason why no trial may write to the tables themselves. For example, a trigger on UPDATE doesn't run on an empty
    /// temporary table, so it can't be tried there first. `None` if nothing is suspect, or if the guarded trial shows whether the
    /// direct trial is safe.
    pub(super) untriable: Option<String>,
    /// Texts about sequences that have no number left. Rows need one, because no field fills the sequence's column.
    pub(super) exhausted: Vec<String>,
}

impl Trials {
    /// Returns whether the first trial needs a temporary relation.
    pub(super) fn needs_temp(&self) -> bool {
        !self.suspects.is_empty() || !self.direct.targets.is_empty()
    }

    /// Reads what a table's defaults, triggers and rules may do, and adds the table to the trials. `planned` is the
    /// table's oid in the plan. It may differ from the oid in `found`, because a table that is created for a trial has
    /// another oid in each transaction.
    ///
    /// # Errors
    /// The error of the query that failed.
    pub(super) async fn add(
        &mut self,
        connection: &mut PgConnection,
        pipeline: &Pipeline,
        found: &Catalog,
        planned: u32,
    ) -> Result<(), sqlx::Error> {
        let columns = columns(connection, found).await?;
        let mut table =
            StandIn { found, planned, columns, numbers: Vec::new(), restarts: Vec::new(), drawing: Vec::new() };
        for column in &mut table.columns {
            let functions = std::mem::take(&mut column.functions);
            if !functions.is_empty() {
                self.suspects.push(format!("the default of `{}`, which calls {}", column.name, functions.join(", ")));
                column.suspect = true;
            }
        }
        let filled = |name: &str| pipeline.columns.iter().flatten().any(|column| column.name == name);
        for sequence in sequences(connection, found).await? {
            let Some(column) = table.columns.iter_mut().find(|column| column.name == sequence.column) else { continue };
            let Some((temporary_copy, restart)) = sequence.temporary_copy(found) else {
                if !filled(&sequence.column) {
                    self.exhausted.push(format!(
                        "sequence `{}` of column `{}` has no number left; run: ALTER SEQUENCE {} MAXVALUE …;",
                        sequence.name, sequence.column, sequence.name
                    ));
                }
                continue;
            };
            column.draw(&sequence);
            table.drawing.push(sequence.column);
            table.numbers.push(temporary_copy);
            table.restarts.push(restart);
        }
        for column in &mut table.columns {
            // If a sequence's name is computed at run time, the catalog doesn't know that the default depends on the sequence.
            // So look for the call in the default's text.
            let draws = |sql: &String| sql.contains("nextval(") || sql.contains("setval(");
            let twinned = |sql: &String| sql.replace(OURS, "");
            if !column.generated && column.expression.as_ref().map(twinned).is_some_and(|sql| draws(&sql)) {
                self.suspects.push(format!("the default of `{}`, which draws from a sequence", column.name));
                column.suspect = true;
            }
        }
        let triggers = triggers(connection, found, pipeline, !table.drawing.is_empty()).await?;
        self.suspects.extend(triggers.iter().map(|trigger| trigger.title.clone()));
        let key = pipeline.table.mode.key();
        let checks = checks(connection, found).await?;
        table.view(&mut self.direct);
        table.temporary(&mut self.bare, key, &checks, None);
        if triggers.is_empty() && !table.columns.iter().any(|column| column.suspect) {
            return Ok(());
        }
        let apart = |reach: Reach| triggers.iter().find(|trigger| trigger.reach == reach);
        if pipeline.table.route.is_some() || apart(Reach::Nowhere).is_some() {
            self.untriable = Some("they can't run apart from the table".to_owned());
            return Ok(());
        }
        if let Some(trigger) = apart(Reach::Existing) {
            self.untriable = Some(format!("{} runs where a row exists", trigger.title));
        }
        let creates: Vec<_> = triggers.into_iter().map(|trigger| trigger.create).collect();
        let mut guarded = Setup { read_only: true, ..Setup::default() };
        table.temporary(&mut guarded, key, &checks, Some(&creates));
        self.guarded = Some(guarded);
        Ok(())
    }
}

/// The beginning of a call that draws from a temporary sequence.
const OURS: &str = "nextval('pg_temp.";

/// A table of the pipeline, with the parts of its stand-ins. `planned` is the table's oid in the plan. `numbers` are statements
/// that create the temporary sequences. `restarts` are statements that set these sequences to the next numbers of the table's own
/// sequences. `drawing` are the columns whose defaults draw from the temporary sequences.
struct StandIn<'a> {
    found: &'a Catalog,
    planned: u32,
    columns: Vec<Column>,
    numbers: Vec<String>,
    restarts: Vec<String>,
    drawing: Vec<String>,
}

impl StandIn<'_> {
    fn name(&self) -> String {
        format!("tidegate_trial_{}", self.found.oid)
    }

    /// Registers the stand-in in place of the table. The stand-in is a view or a temporary table, and is always registered as a
    /// view. Since COPY can't write to a view, the writer then stages the rows in every mode.
    fn stands_in(&self, setup: &mut Setup) {
        let table = TableName { schema: "pg_temp".to_owned(), name: self.name() };
        let mut catalog = Catalog { table, kind: RelationKind::View, ..self.found.clone() };
        // If a column has only its domain's default, the stand-in's column has that default as its own. The staging table must
        // take the default from the stand-in, because the domain's default may draw from a real sequence.
        for column in self.columns.iter().filter(|column| !column.generated && column.expression.is_some()) {
            let of = catalog.columns.iter_mut().find(|of| of.name == column.name && of.default_oid.is_none());
            if let Some(of) = of {
                of.default_oid = Some(of.type_oid);
            }
        }
        setup.targets.insert(self.planned, catalog);
    }

    /// Adds a view of the table in which the defaults that draw from a sequence are replaced. Adds nothing if no default draws
    /// from a sequence. The view has all other defaults too, because the staging table takes its defaults from the view.
    fn view(&self, setup: &mut Setup) {
        if self.drawing.is_empty() {
            return;
        }
        let name = self.name();
        setup.make.extend_from_slice(&self.numbers);
        setup.show.extend_from_slice(&self.restarts);
        setup.make.push(format!("CREATE TEMP VIEW {name} AS SELECT * FROM {}", self.found.table.quoted()));
        for column in self.columns.iter().filter(|column| !column.generated) {
            if let Some(default) = &column.expression {
                let quoted = quote_identifier(&column.name);
                setup.make.push(format!("ALTER VIEW pg_temp.{name} ALTER COLUMN {quoted} SET DEFAULT {default}"));
            }
        }
        self.stands_in(setup);
    }

    /// Adds a temporary table with the same columns and checks, and with a unique index on `key`. If `triggers` is `None`, it has
    /// no triggers, and no defaults that may change something. LIKE isn't used, because it requires the right to read the
    /// original. `append` doesn't need that right.
    fn temporary(&self, setup: &mut Setup, key: &[String], checks: &[String], triggers: Option<&[String]>) {
        let name = self.name();
        let columns = self.columns.iter().map(|column| column.definition(triggers.is_some()));
        let parts: Vec<_> = columns.chain(checks.iter().cloned()).collect();
        setup.make.extend_from_slice(&self.numbers);
        // A read-only transaction may draw from a temporary sequence, but not restart it.
        if !setup.read_only {
            setup.show.extend_from_slice(&self.restarts);
        }
        setup.no_partitions = true;
        setup.make.push(format!("CREATE TEMP TABLE {name} ({})", parts.join(", ")));
        if !key.is_empty() {
            let key: Vec<_> = key.iter().map(|column| quote_identifier(column)).collect();
            setup.make.push(format!("CREATE UNIQUE INDEX ON pg_temp.{name} ({})", key.join(", ")));
        }
        for trigger in triggers.into_iter().flatten() {
            setup.make.push(trigger.clone());
        }
        self.stands_in(setup);
        if let Some(catalog) = setup.targets.get_mut(&self.planned) {
            for column in &mut catalog.columns {
                column.identity_always = false;
            }
        }
    }
}

/// A column of the table. `expression` is its default, or the expression of a generated column (STORED or VIRTUAL). `functions`
/// are the functions that the default calls and that may have side effects. `suspect` says whether the default may make a change
/// that ROLLBACK doesn't undo.
struct Column {
    name: String,
    type_text: String,
    not_null: bool,
    generated: bool,
    stored: bool,
    expression: Option<String>,
    functions: Vec<String>,
    suspect: bool,
}

impl Column {
    /// Replaces the draw from `sequence` in the default with a draw from the sequence's temporary copy. An identity column has no
    /// default, so it gets such a draw as its default.
    fn draw(&mut self, sequence: &Sequence) {
        let ours = format!("{OURS}{}'::regclass)", sequence.twin_name());
        self.expression = Some(match self.expression.take() {
            Some(sql) => sql.replace(&sequence.draw, &ours),
            None => ours,
        });
    }

    fn definition(&self, with_suspects: bool) -> String {
        let Self { name, type_text, not_null, generated, stored, expression, suspect, .. } = self;
        let mut sql = format!("{} {type_text}", quote_identifier(name));
        let left_out = *suspect && !with_suspects;
        match expression {
            Some(from) if *generated => {
                sql += &format!(" GENERATED ALWAYS AS ({from}) {}", if *stored { "STORED" } else { "VIRTUAL" });
            }
            Some(default) if !left_out => sql += &format!(" DEFAULT {default}"),
            // Without these words, the column would still have the default of its domain.
            Some(_) => sql += " DEFAULT NULL",
            None => {}
        }
        if *not_null && !left_out {
            sql += " NOT NULL";
        }
        sql
    }
}

struct Sequence {
    column: String,
    oid: i64,
    name: String,
    /// The call in the default's text that draws from the sequence, such as `nextval('s'::regclass)`.
    draw: String,
    increment: i64,
    min: i64,
    max: i64,
    start: i64,
    cycle: bool,
    /// The last number that was drawn from the sequence. `None` if none was drawn yet, or if the role has no right to read it.
    last: Option<i64>,
    may_look: bool,
}

impl Sequence {
    fn twin_name(&self) -> String {
        format!("tidegate_numbers_{}", self.oid)
    }

    /// Returns two statements; `None` if the sequence has no number left. The first creates a temporary copy of the sequence,
    /// which starts [`AHEAD`] of the sequence's next number. If the role can't read the last number, the copy starts halfway
    /// between the sequence's start and its end. The second statement sets the copy to the sequence's next number; it runs before
    /// the rows for the report are read.
    fn temporary_copy(&self, found: &Catalog) -> Option<(String, String)> {
        let of = found.columns.iter().find(|column| column.name == self.column);
        let (lowest, highest) = match of.map(|of| of.base_type.as_str()) {
            Some("int2") => (i64::from(i16::MIN), i64::from(i16::MAX)),
            Some("int4") => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        let (min, max) = (self.min.max(lowest), self.max.min(highest));
        let increment = i128::from(self.increment);
        let end = i128::from(if self.increment > 0 { max } else { min });
        let mut next = self.last.map_or(i128::from(self.start), |last| i128::from(last) + increment);
        let mut room = (end - next) / increment;
        if (end - next) * increment.signum() < 0 {
            if !self.cycle {
                return None;
            }
            next = i128::from(if self.increment > 0 { min } else { max });
            room = (end - next) / increment;
        }
        let ahead = if self.may_look { AHEAD.min(room / 2) } else { room / 2 };
        let Self { increment: step, .. } = self;
        let start = next + increment * ahead;
        let cycle = if self.cycle { " CYCLE" } else { "" };
        let name = self.twin_name();
        // `IF NOT EXISTS`, because two columns may draw from one sequence.
        let create = format!(
            "CREATE TEMP SEQUENCE IF NOT EXISTS {name} INCREMENT {step} MINVALUE {min} MAXVALUE {max} START {start}{cycle}"
        );
        Some((create, format!("ALTER SEQUENCE pg_temp.{name} RESTART WITH {next}")))
    }
}

/// Reads the columns, each with its own default, or else the default of its domain. Functions written in C are assumed not to
/// draw from sequences; most of them belong to extensions, such as those that generate UUIDs.
async fn columns(connection: &mut PgConnection, found: &Catalog) -> Result<Vec<Column>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated::text,
             CASE WHEN d.oid IS NOT NULL THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid)
                  WHEN a.attidentity = '' THEN pg_catalog.pg_get_expr(t.typdefaultbin, 0) END,
             ARRAY(SELECT DISTINCT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_depend e
                 JOIN pg_catalog.pg_proc p ON p.oid = e.refobjid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
                 WHERE e.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                     AND l.lanname NOT IN ('internal', 'c') AND p.provolatile <> 'i' AND a.attgenerated = ''
                     AND (e.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND e.objid = d.oid
                          OR d.oid IS NULL AND e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass
                              AND e.objid = t.oid AND t.typdefaultbin IS NOT NULL))
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    );
    let rows = rows.bind(i64::from(found.oid)).fetch_all(connection).await?;
    let column = |row: &sqlx::postgres::PgRow| {
        let generated: &str = row.try_get(3)?;
        Ok(Column {
            name: row.try_get(0)?,
            type_text: row.try_get(1)?,
            not_null: row.try_get(2)?,
            generated: !generated.is_empty(),
            stored: generated == "s",
            expression: row.try_get(4)?,
            functions: row.try_get(5)?,
            suspect: false,
        })
    };
    rows.iter().map(column).collect()
}

/// Reads the sequences of serial and identity columns, and those that other defaults name.
async fn sequences(connection: &mut PgConnection, found: &Catalog) -> Result<Vec<Sequence>, sqlx::Error> {
    let rows = sqlx::query(
        "WITH used AS (
             SELECT a.attname::text AS name, e.refobjid AS sequence
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             JOIN pg_catalog.pg_depend e ON e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND (e.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND e.objid = d.oid
                      OR d.oid IS NULL AND a.attidentity = '' AND e.objid = t.oid
                          AND e.classid = 'pg_catalog.pg_type'::pg_catalog.regclass)
             WHERE a.attrelid = $1::int8::oid AND a.attgenerated = ''
           UNION
             SELECT a.attname::text, e.objid
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_depend e ON e.refobjid = a.attrelid
                 AND e.refobjsubid = a.attnum AND e.deptype = 'i'
                 AND e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                 AND e.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
             WHERE a.attrelid = $1::int8::oid AND a.attidentity <> '')
         SELECT u.name, s.seqrelid::int8, s.seqrelid::pg_catalog.regclass::text,
             pg_catalog.format('nextval(%L::regclass)', s.seqrelid::pg_catalog.regclass::text),
             s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcycle, r.may_look,
             CASE WHEN r.may_look THEN pg_catalog.pg_sequence_last_value(s.seqrelid) END
         FROM used u JOIN pg_catalog.pg_sequence s ON s.seqrelid = u.sequence,
             LATERAL (SELECT pg_catalog.has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') AS may_look) r
         ORDER BY 1, 2",
    );
    let rows = rows.bind(i64::from(found.oid)).fetch_all(connection).await?;
    let sequence = |row: &sqlx::postgres::PgRow| {
        Ok(Sequence {
            column: row.try_get(0)?,
            oid: row.try_get(1)?,
            name: row.try_get(2)?,
            draw: row.try_get(3)?,
            increment: row.try_get(4)?,
            min: row.try_get(5)?,
            max: row.try_get(6)?,
            start: row.try_get(7)?,
            cycle: row.try_get(8)?,
            may_look: row.try_get(9)?,
            last: row.try_get(10)?,
        })
    };
    rows.iter().map(sequence).collect()
}

async fn checks(connection: &mut PgConnection, found: &Catalog) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT pg_catalog.format('CONSTRAINT %I %s', c.conname, replace(pg_catalog.pg_get_constraintdef(c.oid), ' NOT VALID', ''))
         FROM pg_catalog.pg_constraint c WHERE c.conrelid = $1::int8::oid AND c.contype = 'c' ORDER BY c.conname",
    );
    let rows = rows.bind(i64::from(found.oid)).fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// On which tables a trigger can be tried. [`Self::Anywhere`] includes a temporary table of the trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Anywhere,
    /// The trigger can run on a temporary table too. But it also runs on UPDATE or DELETE, which only happen if a row exists
    /// already.
    Existing,
    /// The trigger can only run on its own table, because it belongs to one partition, is a rule, or calls a function that
    /// the role has no right to call.
    Nowhere,
}

/// A trigger or a rule that may have side effects. `create` is the SQL that creates the trigger on the trial's temporary table.
/// It is not used if `reach` is [`Reach::Nowhere`], as for all rules.
struct Trigger {
    title: String,
    create: String,
    reach: Reach,
}

/// Reads the triggers that the pipeline's statements run, except those written in C. If the trial `inserts`, also reads the
/// rules: a COPY doesn't run rules, but the trial's INSERT would.
async fn triggers(
    connection: &mut PgConnection,
    found: &Catalog,
    pipeline: &Pipeline,
    inserts: bool,
) -> Result<Vec<Trigger>, sqlx::Error> {
    // Bits of tgtype: 4 INSERT, 8 DELETE, 16 UPDATE.
    let existing = match pipeline.table.mode {
        WriteMode::Append | WriteMode::InsertNew { .. } => 0_i16,
        WriteMode::Upsert { deletes: true, .. } => 8 | 16,
        WriteMode::Upsert { .. } | WriteMode::Aggregate { .. } => 16,
    };
    let rows = sqlx::query(
        "SELECT 'trigger `' || t.tgname::text || '`', pg_catalog.pg_get_triggerdef(t.oid),
             pg_catalog.format(' ON %I.%I ', n.nspname, c.relname), t.tgtype & $2 <> 0,
             t.tgrelid = $1::int8::oid AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE'), pg_catalog.quote_ident(t.tgname)
         FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
         WHERE (t.tgrelid = $1::int8::oid OR t.tgparentid = 0
                AND t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::int8::oid::pg_catalog.regclass)))
             AND NOT t.tgisinternal AND l.lanname NOT IN ('internal', 'c') AND t.tgtype & (4 | $2) <> 0
             AND t.tgenabled IN ('A', CASE pg_catalog.current_setting('session_replication_role') WHEN 'replica' THEN 'R' ELSE 'O' END)
       UNION ALL
         SELECT 'rule `' || r.rulename::text || '`', '', '', false, false, '' FROM pg_catalog.pg_rewrite r
         WHERE r.ev_class = $1::int8::oid AND $3 AND r.ev_type IN ('2', '3', '4') AND r.ev_enabled <> 'D'
       ORDER BY 1",
    );
    let rows = rows.bind(i64::from(found.oid)).bind(existing).bind(inserts).fetch_all(connection).await?;
    let ours = format!("pg_temp.tidegate_trial_{}", found.oid);
    let trigger = |row: &sqlx::postgres::PgRow| {
        let (definition, on, name): (String, String, &str) = (row.try_get(1)?, row.try_get(2)?, row.try_get(5)?);
        let reach = match (row.try_get(4)?, row.try_get(3)?) {
            (false, _) => Reach::Nowhere,
            (true, true) => Reach::Existing,
            (true, false) => Reach::Anywhere,
        };
        let create = definition.replacen(&on, &format!(" ON {ours} "), 1);
        // The query above selects the triggers that this session runs. ENABLE ALWAYS makes them run whatever
        // `session_replication_role` is.
        let create = format!("{create};\nALTER TABLE {ours} ENABLE ALWAYS TRIGGER {name}");
        Ok(Trigger { title: row.try_get(0)?, create, reach })
    };
    rows.iter().map(trigger).collect()
}
