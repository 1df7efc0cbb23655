//! Reads a table's [`Catalog`] from Postgres' own tables.

use sqlx::{PgConnection, Row};
use tidegate_rows::catalog::{Catalog, CatalogColumn, Generated, RelationKind, TableName, TypeKind, UniqueIndex};

use crate::plan::PlannedTable;

const TABLE: &str = "
SELECT c.oid::int8 AS oid, c.relkind::text AS relkind, pg_catalog.row_security_active(c.oid) AS row_security,
       EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)) AS may_conflict
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2";

/// Reads the defaults of columns as SQL. This query takes a lock on the table, because `pg_get_expr` opens it.
const DEFAULTS: &str = "
SELECT a.attname::text,
       CASE WHEN a.attidentity <> '' THEN pg_catalog.format('pg_catalog.nextval(%L)',
                 -- pg_get_serial_sequence requires USAGE on the schema, which `check` has to find missing.
                 (SELECT pg_catalog.format('%I.%I', n.nspname, s.relname) FROM pg_catalog.pg_depend d
                  JOIN pg_catalog.pg_class s ON s.oid = d.objid
                  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid
                      AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i'))
            ELSE pg_catalog.pg_get_expr(x.adbin, x.adrelid) END
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_attrdef x ON x.adrelid = a.attrelid AND x.adnum = a.attnum
WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
  AND (x.oid IS NOT NULL OR a.attidentity <> '')
ORDER BY a.attnum";

/// Reads the definitions of stored generated columns: type, collation and
/// expression. This query takes a lock on the table, because `pg_get_expr` opens it.
const GENERATED: &str = "
SELECT a.attname::text,
       pg_catalog.format_type(a.atttypid, a.atttypmod)
       || coalesce((SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname) FROM pg_catalog.pg_collation l
                    JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                    WHERE l.oid = a.attcollation AND l.oid <> t.typcollation), '')
       || ' GENERATED ALWAYS AS (' || pg_catalog.pg_get_expr(x.adbin, x.adrelid) || ') STORED'
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_attrdef x ON x.adrelid = a.attrelid AND x.adnum = a.attnum
WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = 's'";

/// Reads columns with their types. If the type is a domain, reads the domain's base type, also through a domain over a domain.
/// The innermost type modifier applies. The column is NOT NULL if the table or one of its domains says so.
const COLUMNS: &str = "
WITH RECURSIVE columns AS (
    SELECT a.attnum, a.attname::text AS name, a.atttypid AS own, a.atttypid AS base, a.atttypmod AS typmod,
           a.attnotnull AS not_null, a.atthasdef OR a.attidentity <> '' AS has_default,
           a.attgenerated::text AS generated, a.attidentity = 'a' AS identity_always,
           CASE WHEN a.attgenerated <> '' THEN x.oid END AS generated_oid,
           -- Since PostgreSQL 15 it is the expression that depends on the columns it reads; before, the column itself does.
           CASE WHEN a.attgenerated <> '' THEN ARRAY(
               SELECT DISTINCT r.attname::text FROM pg_catalog.pg_depend s
               JOIN pg_catalog.pg_attribute r ON r.attrelid = s.refobjid AND r.attnum = s.refobjsubid
               WHERE s.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.refobjid = a.attrelid
                   AND s.refobjsubid > 0 AND s.refobjsubid <> a.attnum
                   AND (s.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND s.objid = x.oid
                        OR s.classid = s.refclassid AND s.objid = a.attrelid AND s.objsubid = a.attnum)
               ORDER BY 1) END AS generated_from,
           CASE WHEN a.attgenerated <> '' THEN NULL
                WHEN a.attidentity <> '' THEN (SELECT s.objid FROM pg_catalog.pg_depend s
                     WHERE s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND s.refclassid = s.classid
                     AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype = 'i')
                ELSE x.oid END AS default_oid,
           pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_text, 0 AS depth
    FROM pg_catalog.pg_attribute a
    LEFT JOIN pg_catalog.pg_attrdef x ON x.adrelid = a.attrelid AND x.adnum = a.attnum
    WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT c.attnum, c.name, c.own, t.typbasetype, CASE WHEN t.typtypmod >= 0 THEN t.typtypmod ELSE c.typmod END,
           c.not_null OR t.typnotnull, c.has_default, c.generated, c.identity_always, c.generated_oid, c.generated_from, c.default_oid, c.type_text, c.depth + 1
    FROM columns c JOIN pg_catalog.pg_type t ON t.oid = c.base AND t.typtype = 'd'
), innermost AS (
    SELECT DISTINCT ON (attnum) * FROM columns ORDER BY attnum, depth DESC
)
SELECT i.name, i.own::int8 AS own, t.oid::int8 AS base_oid, t.typname::text AS base_type, i.type_text, i.typmod, i.not_null,
       i.has_default OR (d.typtype = 'd' AND d.typdefault IS NOT NULL) AS has_default, i.generated,
       i.generated_oid::int8 AS generated_oid, i.generated_from, i.identity_always, i.default_oid::int8 AS default_oid,
       t.typtype::text AS typtype, e.oid::int8 AS element_oid, f.oid::int8 AS element_base_oid,
       f.typname::text AS element_type, f.typtype::text AS element_typtype, f.typmod AS element_typmod,
       ARRAY(SELECT l.enumlabel::text FROM pg_catalog.pg_enum l WHERE l.enumtypid = COALESCE(f.oid, t.oid)
             ORDER BY l.enumsortorder) AS labels
FROM innermost i
JOIN pg_catalog.pg_type t ON t.oid = i.base
JOIN pg_catalog.pg_type d ON d.oid = i.own
LEFT JOIN pg_catalog.pg_type e
       ON e.oid = t.typelem AND t.typcategory = 'A' AND t.typname NOT IN ('int2vector', 'oidvector')
LEFT JOIN LATERAL (
    WITH RECURSIVE element AS (
        SELECT e.oid, e.typname, e.typtype, e.typbasetype, e.typtypmod AS typmod
      UNION ALL
        SELECT b.oid, b.typname, b.typtype, b.typbasetype, CASE WHEN b.typtypmod >= 0 THEN b.typtypmod ELSE d.typmod END
        FROM element d JOIN pg_catalog.pg_type b ON b.oid = d.typbasetype AND d.typtype = 'd'
    )
    SELECT * FROM element WHERE typtype <> 'd'
) f ON true
ORDER BY i.attnum";

/// Finds a column that no longer has the type that it has in the plan.
const RETYPED: &str = "
SELECT p.name FROM unnest($1::text[], $2::text[], $3::int8[]) AS p (relation, name, type)
WHERE (SELECT a.atttypid FROM pg_catalog.pg_attribute a
       WHERE a.attrelid = pg_catalog.to_regclass(p.relation) AND a.attname = p.name::name AND a.attnum > 0
           AND NOT a.attisdropped) IS DISTINCT FROM p.type::oid
LIMIT 1";

/// Reads the unique indexes that ON CONFLICT can use with columns alone. Leaves out partial indexes, indexes on expressions,
/// invalid indexes, indexes of deferrable constraints, and columns in INCLUDE.
const UNIQUE: &str = "
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns,
       -- PostgreSQL has this column since 15.
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false) AS nulls_not_distinct
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indexrelid";

/// Reads the table's catalog; `None` if no relation has that name. A view or another relation is returned too, with its kind.
/// Takes no lock on the table, so that a start doesn't wait for a session that holds one.
///
/// # Errors
/// If Postgres can't be queried.
pub async fn load(conn: &mut PgConnection, table: &TableName) -> Result<Option<Catalog>, sqlx::Error> {
    let found = sqlx::query(TABLE).bind(&table.schema).bind(&table.name).fetch_optional(&mut *conn).await?;
    let Some(row) = found else { return Ok(None) };
    let oid: i64 = row.try_get("oid")?;
    let kind = match row.try_get::<&str, _>("relkind")? {
        "r" => RelationKind::Table,
        "p" => RelationKind::Partitioned,
        "v" | "m" => RelationKind::View,
        "f" => RelationKind::Foreign,
        _ => RelationKind::Other,
    };
    let row_security = row.try_get("row_security")?;
    let rows = sqlx::query(COLUMNS).bind(oid).fetch_all(&mut *conn).await?;
    let columns = rows.iter().map(column).collect::<Result<_, _>>()?;
    let unique = sqlx::query(UNIQUE).bind(oid).fetch_all(&mut *conn).await?;
    let unique = unique.iter().map(|row| {
        Ok(UniqueIndex { columns: row.try_get("columns")?, nulls_not_distinct: row.try_get("nulls_not_distinct")? })
    });
    let unique = unique.collect::<Result<_, sqlx::Error>>()?;
    let may_conflict = row.try_get("may_conflict")?;
    Ok(Some(Catalog { table: table.clone(), oid: as_oid(oid), kind, row_security, columns, unique, may_conflict }))
}

/// Returns the name of a column of `tables` that no longer has the type in the plan; `None` if there is none. Columns to which no
/// rows are copied aren't compared. Must be called after the COPY, in its transaction: the COPY's lock keeps the types as they
/// are.
///
/// Binary COPY names no types, so Postgres may take a value for one of another type. For example, int8, float8 and timestamptz
/// all have eight bytes.
///
/// # Errors
/// If Postgres can't be queried.
pub(super) async fn retyped<'p>(
    conn: &mut PgConnection,
    tables: impl Iterator<Item = &'p PlannedTable>,
) -> Result<Option<String>, sqlx::Error> {
    let (mut relations, mut names, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for table in tables {
        for column in table.catalog.columns.iter().filter(|column| table.has(&column.name)) {
            // Look up by name, as the COPY does: `check` creates its table in the transaction, with another oid.
            relations.push(table.catalog.table.quoted());
            names.push(column.name.as_str());
            types.push(i64::from(column.type_oid));
        }
    }
    sqlx::query_scalar(RETYPED).bind(relations).bind(names).bind(types).fetch_optional(conn).await
}

/// Returns up to five schemas that have a table or view of this name. The table's own schema and the schemas
/// of Postgres are left out.
///
/// # Errors
/// If Postgres can't be queried.
pub async fn elsewhere(conn: &mut PgConnection, table: &TableName) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT n.nspname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname = $2 AND n.nspname <> $1 AND c.relkind IN ('r', 'p', 'v', 'f')
             AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1 LIMIT 5",
    );
    let rows = rows.bind(&table.schema).bind(&table.name).fetch_all(conn).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Reads the defaults of a table's columns: each column's name, and its default as SQL. Leaves out defaults of domains and
/// generated columns. Waits while another session holds the table in ACCESS EXCLUSIVE mode.
///
/// # Errors
/// If Postgres can't be queried.
pub(super) async fn defaults(conn: &mut PgConnection, table: &TableName) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query(DEFAULTS).bind(table.quoted()).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Reads the stored generated columns of a table: each column's name, and its definition as SQL. Waits while another session
/// holds the table in ACCESS EXCLUSIVE mode.
///
/// # Errors
/// If Postgres can't be queried.
pub(super) async fn generated_columns(conn: &mut PgConnection, oid: u32) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query(GENERATED).bind(i64::from(oid)).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Reads the oids of a table's defaults and of the expressions of its generated columns. Takes no lock.
///
/// # Errors
/// If Postgres can't be queried.
pub(super) async fn default_oids(conn: &mut PgConnection, oid: u32) -> Result<Vec<i64>, sqlx::Error> {
    let rows = sqlx::query("SELECT oid::int8 FROM pg_catalog.pg_attrdef WHERE adrelid = $1::int8::oid ORDER BY adnum");
    rows.bind(i64::from(oid)).fetch_all(conn).await?.iter().map(|row| row.try_get(0)).collect()
}

fn column(row: &sqlx::postgres::PgRow) -> Result<CatalogColumn, sqlx::Error> {
    let labels: Vec<String> = row.try_get("labels")?;
    let element_oid: Option<i64> = row.try_get("element_oid")?;
    let kind = match (element_oid, row.try_get::<&str, _>("typtype")?) {
        (Some(oid), _) => {
            let is_enum = row.try_get::<Option<&str>, _>("element_typtype")? == Some("e");
            TypeKind::Array {
                element_type: row.try_get("element_type")?,
                element_oid: as_oid(oid),
                element_base_oid: as_oid(row.try_get("element_base_oid")?),
                labels: is_enum.then_some(labels),
            }
        }
        (None, "b" | "r") => TypeKind::Scalar,
        (None, "e") => TypeKind::Enum { labels },
        (None, _) => TypeKind::Other,
    };
    // If the elements are of a domain, the domain's modifier applies.
    let element_typmod: Option<i32> = row.try_get("element_typmod")?;
    let typmod = element_typmod.filter(|typmod| *typmod >= 0).map_or_else(|| row.try_get("typmod"), Ok)?;
    Ok(CatalogColumn {
        name: row.try_get("name")?,
        type_oid: as_oid(row.try_get("own")?),
        base_type: row.try_get("base_type")?,
        base_type_oid: as_oid(row.try_get("base_oid")?),
        type_text: row.try_get("type_text")?,
        kind,
        typmod,
        not_null: row.try_get("not_null")?,
        has_default: row.try_get("has_default")?,
        default_oid: row.try_get::<Option<i64>, _>("default_oid")?.map(as_oid),
        generated: generated(row)?,
        identity_always: row.try_get("identity_always")?,
    })
}

fn generated(row: &sqlx::postgres::PgRow) -> Result<Option<Generated>, sqlx::Error> {
    let kind: &str = row.try_get("generated")?;
    if kind.is_empty() {
        return Ok(None);
    }
    let oid = as_oid(row.try_get("generated_oid")?);
    Ok(Some(Generated { stored: kind == "s", from: row.try_get("generated_from")?, oid }))
}

/// Converts an oid that a query selected as int8.
fn as_oid(oid: i64) -> u32 {
    u32::try_from(oid).unwrap_or_default()
}
