//! The built-in scalar types that have an encoder, with their names in SQL and their oids, which Postgres never changes. Enums
//! and citext have encoders too, but their oids differ between databases, so they aren't listed here.

/// The modifier that may follow a type's name in parentheses: a length as in `varchar(16)`, precision and scale as in
/// `numeric(10, 2)`, or a precision as in `timestamptz(3)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modifier {
    None,
    Length,
    PrecisionAndScale,
    Precision,
}

/// A scalar type that has an encoder. `name` and `oid` are its `pg_type.typname` and `pg_type.oid`; `array_oid` is the oid of the
/// array type whose elements have this type.
#[derive(Debug)]
pub struct KnownType {
    pub name: &'static str,
    pub oid: u32,
    pub array_oid: u32,
    /// Other names that SQL has for the type.
    pub aliases: &'static [&'static str],
    /// The modifier that [`parse`] accepts for the type.
    pub modifier: Modifier,
}

const fn known(
    name: &'static str,
    oid: u32,
    array_oid: u32,
    aliases: &'static [&'static str],
    modifier: Modifier,
) -> KnownType {
    KnownType { name, oid, array_oid, aliases, modifier }
}

pub const KNOWN: &[KnownType] = &[
    known("bool", 16, 1000, &["boolean"], Modifier::None),
    known("bytea", 17, 1001, &[], Modifier::None),
    known("char", 18, 1002, &["\"char\""], Modifier::None),
    known("name", 19, 1003, &[], Modifier::None),
    known("int8", 20, 1016, &["bigint"], Modifier::None),
    known("int2", 21, 1005, &["smallint"], Modifier::None),
    known("int4", 23, 1007, &["integer", "int"], Modifier::None),
    known("text", 25, 1009, &[], Modifier::None),
    known("oid", 26, 1028, &[], Modifier::None),
    known("json", 114, 199, &[], Modifier::None),
    known("point", 600, 1017, &[], Modifier::None),
    known("cidr", 650, 651, &[], Modifier::None),
    known("float4", 700, 1021, &["real"], Modifier::None),
    known("float8", 701, 1022, &["double precision", "float"], Modifier::None),
    known("macaddr8", 774, 775, &[], Modifier::None),
    known("macaddr", 829, 1040, &[], Modifier::None),
    known("inet", 869, 1041, &[], Modifier::None),
    known("bpchar", 1042, 1014, &["character", "char"], Modifier::Length),
    known("varchar", 1043, 1015, &["character varying"], Modifier::Length),
    known("date", 1082, 1182, &[], Modifier::None),
    known("time", 1083, 1183, &["time without time zone"], Modifier::Precision),
    known("timetz", 1266, 1270, &["time with time zone"], Modifier::Precision),
    known("timestamp", 1114, 1115, &["timestamp without time zone"], Modifier::Precision),
    known("timestamptz", 1184, 1185, &["timestamp with time zone"], Modifier::Precision),
    known("interval", 1186, 1187, &[], Modifier::None),
    known("numeric", 1700, 1231, &["decimal", "dec"], Modifier::PrecisionAndScale),
    known("uuid", 2950, 2951, &[], Modifier::None),
    known("jsonb", 3802, 3807, &[], Modifier::None),
    known("int4range", 3904, 3905, &[], Modifier::None),
    known("numrange", 3906, 3907, &[], Modifier::None),
    known("tsrange", 3908, 3909, &[], Modifier::None),
    known("tstzrange", 3910, 3911, &[], Modifier::None),
    known("daterange", 3912, 3913, &[], Modifier::None),
    known("int8range", 3926, 3927, &[], Modifier::None),
];

pub fn by_oid(oid: u32) -> Option<&'static KnownType> {
    KNOWN.iter().find(|known| known.oid == oid)
}

/// Returns the element type of the array type with this oid.
pub fn by_array_oid(oid: u32) -> Option<&'static KnownType> {
    KNOWN.iter().find(|known| known.array_oid == oid)
}

/// A type that [`parse`] has read. `oid` is the oid of one of [`KNOWN`]. For an array such as `int8[]`, `oid` and `modifiers`
/// describe the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeText {
    pub oid: u32,
    /// The numbers in parentheses. `character` without a number has the length 1.
    pub modifiers: (Option<i32>, Option<i32>),
    pub array: bool,
}

impl TypeText {
    /// Returns the type as SQL. The SQL has only names from [`KNOWN`] and numbers, and no text that a user wrote. `None` if the
    /// type isn't in [`KNOWN`].
    pub fn to_sql(self) -> Option<String> {
        let name = by_oid(self.oid)?.name;
        // Without quotes, `char` means another type.
        let mut sql = if name == "char" { "\"char\"".to_owned() } else { name.to_owned() };
        match self.modifiers {
            (Some(first), Some(second)) => sql += &format!("({first},{second})"),
            (Some(first), None) => sql += &format!("({first})"),
            (None, _) => {}
        }
        if self.array {
            sql += "[]";
        }
        Some(sql)
    }
}

/// Parses the text of a type: `character varying(16)`, `numeric(10,2)[]`, `timestamp(3) with time zone`. Returns `None` for types
/// that aren't in [`KNOWN`], for modifiers that [`KnownType::modifier`] doesn't allow, and for text that names no type.
pub fn parse(text: &str) -> Option<TypeText> {
    let lower = text.trim().to_ascii_lowercase();
    let (scalar, array) = match lower.strip_suffix("[]") {
        Some(scalar) => (scalar.trim_end().trim_end_matches("[]").trim_end(), true),
        None => (lower.as_str(), false),
    };
    let (name, modifiers) = match scalar.split_once('(') {
        None => (collapse(scalar), (None, None)),
        Some((before, rest)) => {
            let (inside, after) = rest.split_once(')')?;
            let mut numbers = inside.split(',').map(|number| number.trim().parse::<i32>().ok());
            let modifiers = (Some(numbers.next()??), numbers.next().map_or(Some(None), |n| n.map(Some))?);
            if numbers.next().is_some() {
                return None;
            }
            (collapse(&format!("{before} {after}")), modifiers)
        }
    };
    // `char` is SQL's short name for `character`; the one-byte type is written in quotes.
    let known =
        KNOWN.iter().find(|known| known.aliases.contains(&name.as_str()) || (known.name == name && name != "char"))?;
    // `character` without a length means length 1.
    let one = known.name == "bpchar" && name != "bpchar" && modifiers.0.is_none();
    let modifiers = if one { (Some(1), None) } else { modifiers };
    let fits = match (known.modifier, modifiers) {
        (_, (None, None)) => true,
        (Modifier::None, _) => false,
        (Modifier::Length, (Some(length), None)) => (1..=10_485_760).contains(&length),
        (Modifier::Precision, (Some(precision), None)) => (0..=6).contains(&precision),
        (Modifier::PrecisionAndScale, (Some(precision), scale)) => {
            (1..=1000).contains(&precision) && scale.is_none_or(|scale| (-1000..=1000).contains(&scale))
        }
        _ => false,
    };
    fits.then_some(TypeText { oid: known.oid, modifiers, array })
}

fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_by_every_name_that_sql_has_for_them() {
        let oid = |text: &str| parse(text).map(|parsed| (parsed.oid, parsed.array));
        assert_eq!(oid("BIGINT"), Some((20, false)));
        assert_eq!(oid("double  precision"), Some((701, false)));
        assert_eq!(oid("char(3)"), Some((1042, false)));
        assert_eq!(oid("\"char\""), Some((18, false)));
        assert_eq!(oid("timestamp(3) with time zone"), Some((1184, false)));
        assert_eq!(oid("int4[][]"), Some((23, true)));
        assert_eq!(parse("numeric(10, 2)").map(|parsed| parsed.modifiers), Some((Some(10), Some(2))));
    }

    #[test]
    fn what_is_no_known_type_is_refused() {
        for text in ["", "int9", "int4(3)", "varchar(0)", "varchar(", "numeric(1,2,3)", "text; drop table x", "money"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
