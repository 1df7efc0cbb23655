//! Reads `table.name = "telemetry_{region}"`, which lets a record name its table.

use tidegate_rows::catalog::TableName;
use tidegate_rows::spec::{Part, Route, Source};

use super::names;

/// While a name is read, private-use characters of Unicode stand for its placeholders. This is the first of these characters.
const FIRST_MARK: u32 = 0xf_0000;
const PLACEHOLDERS_MAX: usize = 8;

/// Reads a table's name. If the name has placeholders, also returns the route, which says where the value of each
/// placeholder is in a record.
pub(super) fn template(text: &str, max_tables: u32) -> Result<(TableName, Option<Route>), String> {
    let (marked, values) = placeholders(text)?;
    let TableName { schema, name } = names::table(&marked)?;
    if values.is_empty() {
        return Ok((TableName { schema, name }, None));
    }
    let shown = |part: &str| {
        part.chars().map(|c| values.get(mark_of(c)).map_or(c.to_string(), |(text, _)| format!("{{{text}}}"))).collect()
    };
    let route = Route { schema: parts(&schema, &values), name: parts(&name, &values), max_tables };
    Ok((TableName { schema: shown(&schema), name: shown(&name) }, Some(route)))
}

/// Returns the text with one private-use character in place of each `{…}`, and the contents of the placeholders. `{{` and `}}`
/// are literal braces.
fn placeholders(text: &str) -> Result<(String, Vec<(String, Source)>), String> {
    let (mut marked, mut values) = (String::new(), Vec::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.next_if_eq(&c).is_some() => marked.push(c),
            '}' => return Err(format!("{text:?}: a }} without its {{; a brace in a name is written twice")),
            '{' => {
                let inside: String = chars.by_ref().take_while(|c| *c != '}').collect();
                marked.extend(char::from_u32(FIRST_MARK + u32::try_from(values.len()).unwrap_or(0)));
                let source = source(&inside).map_err(|message| format!("{text:?}: {message}"))?;
                values.push((inside, source));
            }
            c if u32::from(c) >= FIRST_MARK => {
                return Err(format!(
                    "{text:?} has a character of a private-use plane of Unicode, which a table's name can't contain here; leave it out"
                ));
            }
            c => marked.push(c),
        }
    }
    if values.len() > PLACEHOLDERS_MAX {
        return Err(format!("{text:?} has more than {PLACEHOLDERS_MAX} placeholders"));
    }
    Ok((marked, values))
}

fn source(inside: &str) -> Result<Source, String> {
    if let Some(header) = inside.strip_prefix("header:").filter(|name| !name.is_empty()) {
        return Ok(Source::Header(header.to_owned()));
    }
    match inside.strip_prefix("meta:") {
        Some("topic") => Ok(Source::Topic),
        Some("partition") => Ok(Source::Partition),
        Some("key") => Ok(Source::Key),
        Some(_) => {
            Err("a table is named by {meta:topic}, {meta:partition}, {meta:key}, {header:NAME} or a field".to_owned())
        }
        None => names::field_path(inside).map(Source::Field),
    }
}

fn mark_of(c: char) -> usize {
    u32::from(c).checked_sub(FIRST_MARK).map_or(usize::MAX, |mark| mark as usize)
}

fn parts(name: &str, values: &[(String, Source)]) -> Vec<Part> {
    let mut parts = Vec::new();
    for c in name.chars() {
        match (values.get(mark_of(c)), parts.last_mut()) {
            (Some((_, source)), _) => parts.push(Part::Value(source.clone())),
            (None, Some(Part::Text(text))) => text.push(c),
            (None, _) => parts.push(Part::Text(c.to_string())),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(path: &[&str]) -> Part {
        Part::Value(Source::Field(path.iter().map(|&name| name.to_owned()).collect()))
    }

    #[test]
    fn placeholders_are_fields_or_metadata_and_the_rest_is_a_name() {
        let (shown, route) = template("geo.telemetry_{position.region}_{meta:partition}", 5).expect("a name");
        assert_eq!(shown.to_string(), "geo.telemetry_{position.region}_{meta:partition}");
        let route = route.expect("it has placeholders");
        assert_eq!(route.schema, [Part::Text("geo".to_owned())]);
        let text = |text: &str| Part::Text(text.to_owned());
        let expected = [text("telemetry_"), field(&["position", "region"]), text("_"), Part::Value(Source::Partition)];
        assert_eq!((route.name.as_slice(), route.max_tables), (&expected[..], 5));
    }

    #[test]
    fn a_name_without_placeholders_is_one_table() {
        assert_eq!(template("geo.rides", 1), Ok((TableName { schema: "geo".into(), name: "rides".into() }, None)));
        assert_eq!(template("a{{b}}", 1).map(|(name, route)| (name.name, route)), Ok(("a{b}".to_owned(), None)));
    }

    #[test]
    fn what_is_no_placeholder_is_told() {
        for wrong in ["t_{", "t_{}", "t_}", "t_{a..b}", "t_{meta:offset}", "{a}{a}{a}{a}{a}{a}{a}{a}{a}"] {
            assert!(template(wrong, 1).is_err(), "{wrong}");
        }
    }
}
