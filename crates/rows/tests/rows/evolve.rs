//! Which fields become columns, and their types.

use std::collections::BTreeSet;

use tidegate_rows::mapping::evolve::{COLUMNS_MAX, GivenUp, NewFields, NewType};

use crate::fixtures::{catalog, column};

fn noted(records: &[&str]) -> NewFields {
    let mut fields = NewFields::default();
    records.iter().for_each(|record| fields.note(record.as_bytes(), &GivenUp::default()));
    fields
}

#[test]
fn a_column_takes_whatever_the_records_at_hand_hold() {
    let fields = noted(&[r#""a":1,"b":true,"c":"x","d":[1],"e":null,"f":1,"#, r#""a":1.5,"f":"x","#]);
    let types: Vec<_> = fields.0.iter().map(|(name, found)| format!("{name} {}", found.sql())).collect();
    assert_eq!(types, ["a numeric", "b bool", "c text", "d jsonb", "f jsonb"]);
}

#[test]
fn what_is_given_up_or_null_asks_for_nothing() {
    let given_up = GivenUp::Names(BTreeSet::from(["a".to_owned()]));
    assert_eq!(given_up.first_new(br#""a":1,"b":null,"#), None);
    assert_eq!(given_up.first_new(br#""a":1,"b":2,"#).as_deref(), Some("b"));
}

#[test]
fn only_names_that_postgres_keeps_whole_and_only_so_many_are_added() {
    let long = "x".repeat(64);
    let fields = noted(&[&format!(r#""{long}":1,"":1,"nul\u0000":1,"v":1,"w":1,"#)]);
    let table = catalog(vec![column("v", "int4")]);
    assert_eq!(fields.missing(&table), [("w", NewType::Numeric)]);
    let full = catalog((0..COLUMNS_MAX).map(|n| column(&format!("c{n}"), "int4")).collect());
    assert_eq!(fields.missing(&full), []);
}
