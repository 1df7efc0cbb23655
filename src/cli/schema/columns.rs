//! Proposes which fields become columns, and which arrays become rows. Pure.

use super::names;
use super::tree::Node;
use super::values::Typed;

/// The most fields that get a column of their own. Further fields go into the column for all remaining fields.
const COLUMNS_MAX: usize = 200;
/// The members of an object become columns of their own only if the object has at most this many.
const SPREAD_MAX: usize = 16;
/// An array's elements become the rows only if the record has at most this many scalar fields beside the array. A record with
/// more fields is meaningful by itself, and would be lost if its array were empty.
const BESIDE_MAX: usize = 6;

/// A column of the proposal. Of `rows` records or array elements, `with_value` have the field with a value other than null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposed {
    pub(super) name: String,
    pub(super) path: Vec<String>,
    pub(super) typed: Typed,
    pub(super) with_value: u64,
    pub(super) rows: u64,
}

#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) columns: Vec<Proposed>,
    /// Whether some field has no column of its own, for example because it was always null.
    pub(super) incomplete: bool,
    /// The arrays that lead to the rows, outermost first; empty if a record is one row. For `a[].b[]` these are the paths `a` and
    /// `b`, and the elements of `b` are the rows.
    pub(super) levels: Vec<Vec<String>>,
    /// The fields for which an existing table has no column. Empty if the table is new.
    pub(super) unmapped: Vec<Vec<String>>,
}

/// The objects whose members become columns: the elements of the array at the path `prefix`. If `prefix` is empty, they are the
/// records; if a record is an array or NDJSON, its objects. `rows` is the number of these objects.
struct Level<'a> {
    prefix: &'a [String],
    rows: u64,
}

impl Columns {
    pub(super) fn of(root: &Node) -> Self {
        let mut this = Self::default();
        let (mut prefix, mut node) = (Vec::new(), root);
        loop {
            let array = array_of_rows(node);
            let path = array.as_ref().map_or(&[][..], |(path, _)| path);
            let level = Level { prefix: &prefix, rows: node.seen.objects };
            this.members(&level, &mut Vec::new(), node, path);
            let Some((path, element)) = array else { return this };
            prefix.extend(path.iter().cloned());
            this.levels.push(path);
            node = element;
        }
    }

    /// Adds the members of an object. Leaves out the array whose elements are the rows. If a member is an object that contains
    /// this array, adds that object's other members instead.
    fn members(&mut self, level: &Level<'_>, path: &mut Vec<String>, node: &Node, array: &[String]) {
        for (name, member) in &node.members {
            path.push(name.clone());
            match array.split_first() {
                Some((first, rest)) if first == name => {
                    if !rest.is_empty() {
                        self.members(level, path, member, rest);
                    }
                }
                _ if member.has_type() => self.field(level, path, member),
                // A field that was always null has no type.
                _ => self.incomplete = true,
            }
            path.pop();
        }
    }

    fn field(&mut self, level: &Level<'_>, path: &mut Vec<String>, node: &Node) {
        let name = path.last().map_or("", String::as_str);
        if let Some((within, typed)) = wrapped(node, name) {
            let whole: Vec<_> = path.iter().cloned().chain(within.iter().map(|part| (*part).to_owned())).collect();
            return self.push(level, path, &whole, typed, node);
        }
        if !self.is_spread(node) {
            return self.push(level, path, path, node.typed(name), node);
        }
        for (name, member) in &node.members {
            path.push(name.clone());
            match wrapped(member, name) {
                Some(_) => self.field(level, path, member),
                None => self.push(level, path, path, member.typed(name), member),
            }
            path.pop();
        }
    }

    /// Returns whether an object's members become columns. They do only if every value is an object or null, the members are
    /// few, and each member is a scalar or only wraps one; see [`wrapped`].
    fn is_spread(&self, node: &Node) -> bool {
        let is_scalar = |name: &str, member: &Node| {
            let is_scalar = member.seen.objects + member.seen.arrays == 0;
            is_scalar || wrapped(member, name).is_some()
        };
        node.declared.is_none()
            && node.seen.is_object()
            && (1..=SPREAD_MAX).contains(&node.members.len())
            && self.columns.len() + node.members.len() <= COLUMNS_MAX
            && !is_any_value(node)
            && node.members.iter().all(|(name, member)| is_scalar(name, member))
    }

    fn push(&mut self, level: &Level<'_>, named: &[String], path: &[String], typed: Typed, node: &Node) {
        let is_taken = |name: &str| self.columns.iter().any(|column| column.name == name);
        let plain = named.join("_");
        let prefix = level.prefix.last().filter(|_| is_taken(&plain)).cloned();
        let named: Vec<_> = prefix.into_iter().chain(named.iter().cloned()).collect();
        match names::column(&named, is_taken) {
            Some(name) if self.columns.len() < COLUMNS_MAX => {
                let path = level.prefix.iter().chain(path).cloned().collect();
                let (with_value, rows) = (node.seen.with_value(), level.rows);
                self.columns.push(Proposed { name, path, typed, with_value, rows });
            }
            _ => self.incomplete = true,
        }
    }
}

/// Returns the path and the elements of the array whose elements should be the rows. Every record must have this array, or null
/// in its place, at most three names deep. `None` if no array or several arrays fit, or if more than [`BESIDE_MAX`] scalar fields
/// are beside it. An array of scalars or of key-value pairs doesn't fit.
pub(super) fn array_of_rows(node: &Node) -> Option<(Vec<String>, &Node)> {
    let mut found = Vec::new();
    arrays(node, node.seen.objects, &mut Vec::new(), &mut found);
    let array = found.pop().filter(|_| found.is_empty())?;
    (node.leaves() <= BESIDE_MAX).then_some(array)
}

fn arrays<'n>(node: &'n Node, rows: u64, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, &'n Node)>) {
    for (name, member) in node.members.iter().filter(|(_, member)| member.declared.is_none()) {
        path.push(name.clone());
        let seen = &member.seen;
        if seen.arrays > 0 && seen.arrays + seen.nulls == rows {
            let elements = member.element.as_deref();
            found.extend(elements.filter(|element| is_row(element)).map(|element| (path.clone(), element)));
        } else if seen.objects == rows && rows > 0 && path.len() < 3 {
            arrays(member, rows, path, found);
        }
        path.pop();
    }
}

/// Returns whether the elements of an array may become rows: all are objects, and they aren't the key-value pairs of a map.
fn is_row(element: &Node) -> bool {
    let is_pair =
        element.members.len() == 2 && element.members.iter().all(|(name, _)| matches!(name.as_str(), "key" | "value"));
    element.seen.objects > 0 && element.seen.objects == element.seen.present && !is_pair
}

/// Returns whether the names of an object's members only say the type of the value, as in OpenTelemetry's `AnyValue`
/// (`{"stringValue": "a"}`). The next record may have a value of another type, so such an object is kept whole.
fn is_any_value(node: &Node) -> bool {
    const MEMBERS: [&str; 7] =
        ["stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue"];
    node.members.iter().all(|(name, _)| MEMBERS.contains(&name.as_str()))
}

/// If an object only wraps a value to give its type, as in MongoDB's extended JSON (`{"$oid": "…"}`), returns the path from the
/// object to the value, and the column's type. Otherwise returns `None`.
pub(super) fn wrapped(node: &Node, name: &str) -> Option<(&'static [&'static str], Typed)> {
    let [(wrapper, inner)] = node.members.as_slice() else { return None };
    if node.declared.is_some() || !node.seen.is_object() {
        return None;
    }
    let millis = Typed { unit: Some("ms"), ..Typed::plain("timestamptz") };
    let scalar = inner.seen.scalar(name);
    Some(match (wrapper.as_str(), scalar) {
        ("$oid", Some(_)) => (&["$oid"], Typed::plain("text")),
        ("$numberLong", Some(typed)) => (&["$numberLong"], typed),
        ("$numberInt", Some(typed)) => (&["$numberInt"], typed),
        ("$numberDouble", Some(_)) => (&["$numberDouble"], Typed::plain("float8")),
        ("$numberDecimal", Some(_)) => (&["$numberDecimal"], Typed::plain("numeric")),
        ("$uuid", Some(_)) => (&["$uuid"], Typed::plain("uuid")),
        ("$date", Some(typed)) if typed.name == "timestamptz" && typed.unit.is_none() => (&["$date"], typed),
        ("$date", Some(typed)) if typed.unit.is_some() || typed.name == "int8" => (&["$date"], millis),
        ("$date", None) => match inner.members.as_slice() {
            [(long, _)] if long == "$numberLong" && inner.seen.is_object() => (&["$date", "$numberLong"], millis),
            _ => return None,
        },
        ("$binary", None) if inner.seen.is_object() && inner.members.iter().any(|(name, _)| name == "base64") => {
            (&["$binary", "base64"], Typed::plain("bytea"))
        }
        _ => return None,
    })
}
