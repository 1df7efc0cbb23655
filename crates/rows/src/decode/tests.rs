//! No input makes a decoder of JSON, CSV or raw values panic, and every rejection says why.

use proptest::prelude::*;

use super::*;
use crate::spec::{CsvOptions, Decode};

fn decoders() -> Vec<Decoder> {
    let paths = ["a", "b.c", "value"].map(|path| path.split('.').map(str::to_owned).collect());
    let csv = |columns| CsvOptions { columns, delimiter: b',', quote: b'"', null: String::new() };
    let formats = [
        Decode::Json,
        Decode::ConnectJson,
        Decode::Raw,
        Decode::Csv(csv(None)),
        Decode::Csv(csv(Some(vec!["a".to_owned(), "b.c".to_owned()]))),
    ];
    let policies = [Leftovers::Ignore, Leftovers::Refuse, Leftovers::Collect];
    let of = |format: &Decode| policies.map(|policy| Decoder::new(format, &paths, policy, &[], None, (&[], false)));
    formats.iter().flat_map(of).collect()
}

fn feed(payload: &[u8]) -> Result<(), TestCaseError> {
    let mut fields = Fields::default();
    for mut decoder in decoders() {
        let mut outcome = decoder.decode(payload, None, &mut fields);
        let mut rows = 0;
        while outcome == Ok(true) {
            rows += 1;
            prop_assert!(rows <= payload.len() + 1, "more rows than bytes");
            for slot in 0..3 {
                let value = fields.value(slot, payload);
                prop_assert!(value.raw.len() <= payload.len());
            }
            outcome = if fields.more { decoder.next(payload, &mut fields) } else { Ok(false) };
        }
        if let Err(fault) = outcome {
            prop_assert!(!fault.detail.is_empty());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_rows_or_a_refusal(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        feed(&payload)?;
    }

    #[test]
    fn any_text_of_these_letters_is_rows_or_a_refusal(payload in "[\\[\\]{}a:\",\n\r 1\\\\]{0,48}") {
        feed(payload.as_bytes())?;
    }
}
