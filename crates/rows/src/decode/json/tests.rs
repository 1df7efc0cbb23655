//! Compares the scanner with `serde_json`, on valid and invalid documents.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value as Tree;

use super::JsonDecoder;
use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::value::Reason;
use crate::value::{Flags, Kind, Slot};

/// Returns whether `serde_json` accepts a text as JSON. `IgnoredAny` accepts lone surrogates, so `Value` must accept the text
/// too. `Value` rejects numbers that no `f64` can hold; for a text with such a number, returns `None`.
fn is_json(text: &[u8]) -> Option<bool> {
    if serde_json::from_slice::<IgnoredAny>(text).is_err() || std::str::from_utf8(text).is_err() {
        return Some(false);
    }
    match serde_json::from_slice::<Tree>(text) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}

fn paths() -> Vec<Path> {
    let path = |text: &str| text.split('.').map(str::to_owned).collect();
    ["a", "b.c", "b", "é", "a.x", "\"\n", "b.c.d"].map(path).into()
}

fn at_path<'t>(tree: &'t Tree, path: &Path) -> Option<&'t Tree> {
    path.iter().try_fold(tree, |tree, name| tree.as_object()?.get(name))
}

fn of_slot(slot: &Slot, text: &[u8]) -> Option<Tree> {
    let value = slot.of(text);
    if value.kind == Kind::Missing {
        return None;
    }
    let tree: Tree = serde_json::from_slice(value.raw).expect("a slot points to JSON");
    let kind = match &tree {
        Tree::Null => Kind::Null,
        Tree::Bool(true) => Kind::True,
        Tree::Bool(false) => Kind::False,
        Tree::Number(_) => Kind::Number,
        Tree::String(_) => Kind::String,
        Tree::Array(_) => Kind::Array,
        Tree::Object(_) => Kind::Object,
    };
    assert_eq!(value.kind, kind);
    assert_eq!(value.flags.has(Flags::NUL), holds_nul(value.raw), "{}", String::from_utf8_lossy(value.raw));
    if let Tree::String(expected) = &tree {
        let mut text = Vec::new();
        super::string::unescape(value.as_text().unwrap_or_default(), &mut text);
        assert_eq!(text, expected.as_bytes());
        assert!(value.flags.has(Flags::ESCAPED) || !value.raw.contains(&b'\\'));
    }
    Some(tree)
}

/// Returns whether a text contains `\u0000` with a backslash that isn't itself escaped.
fn holds_nul(text: &[u8]) -> bool {
    let mut escaped = false;
    text.iter().enumerate().any(|(at, byte)| {
        let hit = escaped && text[at..].starts_with(b"u0000");
        escaped = *byte == b'\\' && !escaped;
        hit
    })
}

fn agree(decoder: &mut JsonDecoder, text: &[u8]) -> Result<(), TestCaseError> {
    let mut fields = Fields::default();
    let shown = String::from_utf8_lossy(text);
    let result = decoder.object(text, 0, &mut fields);
    let parsed = serde_json::from_slice::<Tree>(text);
    let object = text.trim_ascii_start().first() == Some(&b'{');
    if let Some(json) = is_json(text) {
        prop_assert_eq!(result.is_ok(), json && object, "{} {:?}", shown, result);
    }
    if let (Ok(()), Ok(tree)) = (result, parsed) {
        for (path, slot) in paths().iter().zip(&fields.slots) {
            prop_assert_eq!(of_slot(slot, text), at_path(&tree, path).cloned(), "{:?} in {}", path, shown);
        }
        let mut leftovers = fields.leftovers.clone();
        leftovers.pop();
        let leftovers = [b"{", &leftovers[..], b"}"].concat();
        let mut expected = tree;
        let members = expected.as_object_mut().expect("an object");
        paths().iter().for_each(|path| drop(members.remove(&path[0])));
        prop_assert_eq!(serde_json::from_slice::<Tree>(&leftovers).ok(), Some(expected), "{}", shown);
    }
    Ok(())
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![6 => Just(String::new()), 1 => "[ \n\r\t]{1,3}"]
}

fn key() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        r#""a""#,
        r#""b""#,
        r#""c""#,
        r#""d""#,
        r#""x""#,
        r#""é""#,
        r#""\u00e9""#,
        r#""\u0061""#,
        r#""\"\n""#,
        r#""\u0000""#,
    ]);
    prop_oneof![8 => known.prop_map(str::to_owned), 1 => string()]
}

fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        40 => "[ -!#-\\[\\]-~é€😀]{0,12}",
        10 => prop::sample::select(vec![r"\n", r"\\", r#"\""#, r"\/", r"\u0000", r"\\u0000", r"\ud83d\ude00", r"\u20AC"])
            .prop_map(str::to_owned),
        1 => prop::sample::select(vec![r"\ud800", r"\udc00", r"\ud800\u0041", r"\x", "\n", "\u{7f}", r"\u12"])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof!["-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", "-?[0-9.eE+]{1,6}"]
}

fn document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        1 => Just("null".to_owned()),
        1 => Just("true".to_owned()),
        1 => Just("false".to_owned()),
        12 => "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][+-]?[0-9]{1,2})?",
        8 => string(),
        1 => number(),
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        let member = (space(), key(), space(), space(), inner.clone(), space());
        let members = prop::collection::vec(
            member.prop_map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}")),
            0..5,
        );
        let elements = prop::collection::vec((space(), inner, space()).prop_map(|(a, value, b)| a + &value + &b), 0..4);
        prop_oneof![
            3 => (space(), members).prop_map(|(a, members)| format!("{{{a}{}}}", members.join(","))),
            1 => (space(), elements).prop_map(|(a, elements)| format!("[{a}{}]", elements.join(","))),
        ]
    });
    let members = prop::collection::vec((space(), key(), space(), space(), value.clone(), space()), 0..6);
    let object = members.prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}")).collect();
        format!("{{{}}}", members.join(","))
    });
    (space(), prop_oneof![9 => object, 1 => value], space()).prop_map(|(a, value, b)| a + &value + &b)
}

fn edit(text: &mut Vec<u8>, at: prop::sample::Index, kind: u8, byte: u8) {
    if text.is_empty() {
        return;
    }
    let at = at.index(text.len());
    match kind {
        0 => text[at] = byte,
        1 => text.insert(at, byte),
        2 => drop(text.remove(at)),
        _ => text.truncate(at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents_and_their_fields_are_read_as_serde_json_reads_them(texts in prop::collection::vec(document(), 1..6)) {
        // One decoder reads several records: what it has learned must never change a result.
        let mut decoder = JsonDecoder::new(&paths(), Leftovers::Collect);
        for text in texts.iter().chain(&texts) {
            agree(&mut decoder, text.as_bytes())?;
        }
    }

    #[test]
    fn damaged_documents_are_refused_where_serde_json_refuses_them(
        text in document(),
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_u8..4, prop_oneof![prop::sample::select(b"{}[]\",:\\u0e+-. tn1\n\0\xc3".to_vec()), any::<u8>()]),
            1..3,
        ),
    ) {
        let mut damaged = text.clone().into_bytes();
        edits.into_iter().for_each(|(at, kind, byte)| edit(&mut damaged, at, kind, byte));
        let mut decoder = JsonDecoder::new(&paths(), Leftovers::Collect);
        agree(&mut decoder, &damaged)?;
        agree(&mut decoder, text.as_bytes())?;
        agree(&mut decoder, &damaged)?;
    }

    #[test]
    fn mantissa_and_exponent_are_the_number(digits in 1_u64..10_000_000_000_000_000_000, point in 0_usize..19, exponent in -30_i32..30) {
        let mut text = format!("{digits:020}");
        text.insert(20 - point, '.');
        let text = format!("{{\"a\":{}0e{exponent}}}", text.trim_start_matches('0').replacen('.', "0.", usize::from(point >= digits.to_string().len())));
        let mut fields = Fields::default();
        let mut decoder = JsonDecoder::new(&paths(), Leftovers::Ignore);
        prop_assert!(decoder.decode(text.as_bytes(), &mut fields).is_ok(), "{}", text);
        let slot = fields.slots[0];
        let shift = exponent - i32::try_from(point).expect("small") - 1;
        if !slot.flags.has(Flags::INEXACT) {
            prop_assert_eq!((slot.mantissa, slot.exponent), (digits * 10, shift), "{}", text);
        }
    }
}

#[test]
fn nesting_is_bounded() {
    let mut decoder = JsonDecoder::new(&paths(), Leftovers::Ignore);
    let mut nested = |levels: usize| {
        let text = format!("{{\"z\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        decoder.object(text.as_bytes(), 0, &mut Fields::default())
    };
    assert_eq!(nested(128), Ok(()));
    assert!(nested(129).is_err_and(|fault| fault.detail.contains("nested too deep")));
    assert!(nested(100_000).is_err());
}

#[test]
fn keys_that_never_come_back_do_not_pile_up() {
    let mut decoder = JsonDecoder::new(&paths(), Leftovers::Ignore);
    for record in 0..100_000 {
        let text = format!("{{\"key_{record}\":1,\"a\":{record}}}");
        let mut fields = Fields::default();
        assert_eq!(decoder.object(text.as_bytes(), 0, &mut fields), Ok(()));
        assert_eq!(fields.slots[0].mantissa, record);
    }
    assert!(decoder.keys.len() < 300);
}

#[test]
fn many_objects_with_many_unknown_keys_are_decoded() {
    let objects = 0..300;
    let paths: Vec<Path> = objects.clone().map(|n| vec![format!("o{n}"), "a".to_owned()]).collect();
    let mut decoder = JsonDecoder::new(&paths, Leftovers::Ignore);
    let unknown: String = (0..256).map(|n| format!("\"k{n}\":0,")).collect();
    let members: Vec<_> = objects.map(|n| format!("\"o{n}\":{{{unknown}\"a\":{n}}}")).collect();
    let text = format!("{{{}}}", members.join(","));
    let mut fields = Fields::default();
    for _ in 0..2 {
        assert_eq!(decoder.object(text.as_bytes(), 0, &mut fields), Ok(()));
        assert!((0..).zip(&fields.slots).all(|(n, slot)| slot.mantissa == n), "each object's own `a`");
    }
}

#[test]
fn an_arrays_elements_are_found_as_if_each_stood_alone() {
    let mut decoder = JsonDecoder::new(&paths(), Leftovers::Collect);
    let objects = [r#"{"a":1,"b":{"x":2}}"#, r#"{}"#, r#" {"z":[1,2],"a":"é"} "#, r#"{"a":null,"zz":3}"#];
    let array = format!("[ {} ]\n", objects.join(" ,"));
    let (mut whole, mut alone) = (Fields::default(), Fields::default());
    let mut there = decoder.decode(array.as_bytes(), &mut whole).expect("JSON");
    let mut single = JsonDecoder::new(&paths(), Leftovers::Collect);
    for object in objects {
        assert!(there, "{object}");
        assert_eq!(single.decode(object.as_bytes(), &mut alone), Ok(true));
        let shown = |fields: &Fields, text: &str| -> Vec<_> {
            let value = |slot: &Slot| (slot.kind, slot.of(text.as_bytes()).raw.to_vec());
            fields.slots.iter().map(value).collect()
        };
        assert_eq!(shown(&whole, &array), shown(&alone, object));
        assert_eq!(whole.leftovers, alone.leftovers);
        there = whole.more && decoder.next(array.as_bytes(), &mut whole).expect("JSON");
    }
    assert!(!there);
    assert_eq!(decoder.decode(b" [ ] ", &mut whole), Ok(false));
    for (text, reason) in [
        ("[{}", Reason::InvalidJson),
        ("[{},]", Reason::InvalidJson),
        ("[1]", Reason::NotAnObject),
        ("[{}]x", Reason::InvalidJson),
    ] {
        let mut outcome = decoder.decode(text.as_bytes(), &mut whole);
        while outcome == Ok(true) && whole.more {
            outcome = decoder.next(text.as_bytes(), &mut whole);
        }
        assert_eq!(outcome.expect_err("a refusal").reason, reason, "{text}");
    }
}

#[test]
fn the_frame_of_a_registry_before_an_object_is_stepped_over() {
    let mut decoder = JsonDecoder::new(&paths(), Leftovers::Ignore);
    let mut fields = Fields::default();
    let framed = b"\0\0\0\0\x07{\"a\":\"x\"}";
    assert_eq!(decoder.decode(framed, &mut fields), Ok(true));
    assert_eq!(fields.slots[0].of(framed).raw, b"\"x\"");
    assert_eq!(decoder.decode(b"\0\0\0\0", &mut fields).expect_err("a refusal").reason, Reason::InvalidJson);
    // A NUL after white space isn't the first byte of a frame.
    assert_eq!(decoder.decode(b"\r\0\0\0\0{}", &mut fields).expect_err("a refusal").reason, Reason::InvalidJson);
}

#[test]
fn faults_behind_a_frame_count_from_the_first_byte_of_the_value() {
    let mut decoder = JsonDecoder::new(&paths(), Leftovers::Ignore);
    let mut detail = |value: &[u8]| decoder.decode(value, &mut Fields::default()).expect_err("a refusal").detail;
    let framed = |text: &[u8]| [&[0, 0xff, 0, 0, 7], text].concat();
    assert_eq!(detail(&framed(b"{\"a\":x}")), "the value is not JSON: byte 10 at x}: expected a value");
    assert_eq!(detail(&framed(b"{\"a\":\"\xff\"}")), "the value is not UTF-8 at byte 11");
    assert_eq!(detail(&framed(b"7")), "the value 7 is not a JSON object");
}
