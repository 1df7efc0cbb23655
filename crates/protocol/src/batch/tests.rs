use super::*;
use crate::position::ClaimId;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

fn source(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

/// Encodes a record as `partition:offset;`. Rejects offsets that are multiples of 7, and skips other multiples of 5.
fn encode(record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
    if record.offset % 7 == 0 {
        return Err(RejectedRecord {
            record: 0,
            reason: "seven",
            sqlstate: None,
            column: None,
            detail: "is a seven".into(),
        });
    }
    if record.offset % 5 == 0 {
        return Ok(0);
    }
    rows.extend_from_slice(format!("{}:{};", record.partition, record.offset).as_bytes());
    Ok(1)
}

fn push(batch: &mut Batch, segment: usize, offset: i64) {
    let value = offset.to_string();
    let incoming = Incoming {
        offset: Offset::new(offset),
        timestamp_ms: Some(offset * 10),
        key: Some(b"k"),
        value: Some(value.as_bytes()),
    };
    batch.push(segment, &incoming, Instant::now(), |_| {}, encode);
}

/// Returns a sealed batch with interleaved records of three partitions. Each step adds a record: the index of its partition,
/// and the number of offsets that are missing before it, as after compaction.
fn batch_of(steps: &[(usize, i64)]) -> Batch {
    let mut batch = Batch::new();
    for partition in 0..3 {
        batch.open_segment(source(partition), Claim { id: ClaimId::from_u128(7), epoch: 1 }, Offset::new(100));
    }
    let mut next = [100; 3];
    for (segment, gap) in steps {
        push(&mut batch, *segment, next[*segment] + gap);
        next[*segment] += gap + 1;
    }
    batch.seal(Trigger::Rows);
    batch
}

fn steps() -> impl Strategy<Value = Vec<(usize, i64)>> {
    proptest::collection::vec((0usize..3, 0i64..4), 1..80)
}

fn text(batch: &Batch, window: Range<u32>) -> String {
    batch.copy_ranges(window).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
}

#[test]
fn a_dropped_segment_leaves_no_byte_and_no_span() {
    let mut batch = batch_of(&[(0, 1), (1, 1), (0, 0), (2, 3)]);
    batch.drop_segment(0);
    assert_eq!(text(&batch, 0..4), "1:101;2:103;");
    assert_eq!(batch.spans(0..4).iter().map(|span| span.source.partition).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn refused_records_are_those_of_the_window_and_of_live_segments() {
    // All five records are rejected, because `encode` rejects multiples of 7. Their offsets are 105, 112 and 119 in partition
    // 0, and 105 and 112 in partition 1.
    let mut batch = batch_of(&[(0, 5), (1, 5), (0, 6), (1, 6), (0, 6)]);
    let refused = |batch: &Batch, window: Range<u32>| {
        batch.rejected_records(window).map(|reject| reject.record).collect::<Vec<_>>()
    };
    assert_eq!((refused(&batch, 0..5), refused(&batch, 1..4)), (vec![0, 1, 2, 3, 4], vec![1, 2, 3]));
    batch.drop_segment(0);
    assert_eq!((refused(&batch, 0..5), refused(&batch, 2..5)), (vec![1, 3], vec![3]));
}

#[test]
fn a_null_value_and_an_empty_one_stay_apart() {
    let mut batch = Batch::new();
    let segment = batch.open_segment(source(0), Claim::default(), Offset::ZERO);
    for (offset, value) in [(1, None), (2, Some(&b""[..]))] {
        let incoming = Incoming { offset: Offset::new(offset), timestamp_ms: None, key: None, value };
        batch.push(segment, &incoming, Instant::now(), |_| {}, encode);
    }
    assert_eq!((batch.record(0).value, batch.record(1).value), (None, Some(&b""[..])));
}

#[test]
fn the_mark_of_a_record_is_the_same_for_ever() {
    let record = |key, value| Record {
        topic: "t",
        partition: 0,
        offset: 5,
        timestamp_ms: Some(9),
        key,
        value,
        headers: Headers::default(),
    };
    // Ledgers contain digests, so the digest of a record must never change. The expected digests were computed with
    // another implementation of FNV-1a, over both lengths, the key and the value.
    let mark = |key, value| last_record(&record(key, value)).digest;
    assert_eq!(mark(Some(&b"k"[..]), Some(&b"v"[..])), 3337082642361160612);
    assert_eq!(mark(None, Some(&b""[..])), 5673037472935113441);
    assert_ne!(mark(None, Some(&b""[..])), mark(Some(&b""[..]), None));
    let LastRecord { offset, timestamp_ms, .. } = last_record(&record(None, None));
    assert_eq!((offset.get(), timestamp_ms), (5, Some(9)));
}

#[test]
fn it_says_what_it_holds() {
    let mut batch = Batch::new();
    assert!(batch.is_empty() && batch.bytes() == 0 && batch.opened_at().is_none() && batch.trigger().is_none());
    let segment = batch.open_segment(source(0), Claim::default(), Offset::ZERO);
    let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
    for (offset, timestamp_ms, now) in [(1, Some(10), first), (2, None, second)] {
        let incoming = Incoming { offset: Offset::new(offset), timestamp_ms, key: Some(b"key"), value: Some(b"value") };
        batch.push(segment, &incoming, now, |arena| arena.extend_from_slice(b"hd"), encode);
    }
    assert_eq!((batch.len(), batch.row_bytes(), batch.opened_at()), (2, "0:1;0:2;".len(), Some(first)));
    assert_eq!(batch.bytes(), 8 + 2 * "keyvaluehd".len() + 2 * size_of::<Entry>());
    assert_eq!(batch.timestamps(0..2).collect::<Vec<_>>(), [10], "a record without a timestamp has no latency");
    assert_eq!(batch.record(1).headers.as_bytes(), b"hd");
    assert_eq!((batch.record(0).timestamp_ms, batch.record(1).timestamp_ms), (Some(10), None));
    batch.seal(Trigger::Age);
    assert_eq!(batch.trigger(), Some(Trigger::Age));
}

#[test]
fn a_cleared_batch_is_as_new_and_gives_large_buffers_back() {
    let mut batch = batch_of(&[(0, 1), (1, 1), (0, 0)]);
    let entries = batch.entries.capacity() * size_of::<Entry>();
    batch.clear(entries);
    assert_eq!(batch.entries.capacity() * size_of::<Entry>(), entries, "what is small enough is kept");
    assert!(batch.is_empty() && batch.segments().is_empty() && batch.row_count() == 0 && batch.trigger().is_none());
    let segment = batch.open_segment(source(0), Claim::default(), Offset::ZERO);
    for offset in 1..500 {
        push(&mut batch, segment, offset);
    }
    batch.clear(1000);
    assert!(batch.rows.capacity() <= 1000 && batch.arena.capacity() <= 1000, "{batch:?}");
    assert!((1..=1000 / size_of::<Entry>()).contains(&batch.entries.capacity()), "{batch:?}");
    push_again(&mut batch);
}

/// Pushes a record after a clear. The record accounting starts again from zero: records that were skipped or rejected before the
/// clear don't count.
fn push_again(batch: &mut Batch) {
    let segment = batch.open_segment(source(1), Claim::default(), Offset::ZERO);
    push(batch, segment, 1);
    batch.seal(Trigger::Revoke);
    assert_eq!(text(batch, 0..1), "1:1;");
}

/// Encodes with another plan, as after a catalog change. One of the two rejected records is skipped now, and the other
/// one has rows. The two records that weren't rejected are rejected now.
#[test]
fn encoding_again_goes_by_the_new_plan() {
    let mut batch = batch_of(&[(0, 0), (0, 0), (1, 5), (1, 6)]);
    batch.encode_again(|record, rows| match record.offset % 35 {
        0 => Ok(0),
        offset if offset % 7 == 0 => {
            rows.extend_from_slice(b"x;y;");
            Ok(2)
        }
        _ => Err(RejectedRecord { record: 0, reason: "no_seven", sqlstate: None, column: None, detail: "".into() }),
    });
    let refused: Vec<_> = batch.rejected_records(0..4).map(|reject| (reject.record, reject.reason)).collect();
    assert_eq!(refused, [(0, "no_seven"), (1, "no_seven")]);
    assert_eq!((text(&batch, 0..4), batch.row_count()), ("x;y;".to_owned(), 2));
}

#[test]
fn triggers_have_labels_of_their_own() {
    let triggers = [Trigger::Rows, Trigger::Bytes, Trigger::Age, Trigger::Revoke, Trigger::Shutdown];
    assert_eq!(triggers.map(Trigger::label), ["rows", "bytes", "age", "revoke", "shutdown"]);
}

proptest! {
    #[test]
    fn windows_cover_every_record_once_and_their_spans_chain(steps in steps(), cut in 0u32..80, dropped in proptest::option::of(0usize..3)) {
        let mut batch = batch_of(&steps);
        if let Some(segment) = dropped {
            batch.drop_segment(segment);
        }
        let cut = cut.min(batch.len());
        let live: u32 = batch.segments().iter().filter(|segment| segment.live).map(|segment| segment.records).sum();
        prop_assert_eq!(batch.records_in(0..cut) + batch.records_in(cut..batch.len()), live);
        prop_assert_eq!(text(&batch, 0..cut) + &text(&batch, cut..batch.len()), text(&batch, 0..batch.len()));
        let mut at: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        for window in [0..cut, cut..batch.len()] {
            for span in batch.spans(window) {
                prop_assert_eq!(span.from, *at.get(&span.source).unwrap_or(&Offset::new(100)));
                prop_assert!(span.to > span.from);
                prop_assert_eq!(span.last.offset.successor(), span.to);
                at.insert(span.source, span.to);
            }
        }
        prop_assert_eq!(batch.segments().len(), 3);
        for segment in batch.segments().iter().filter(|segment| segment.live && segment.records > 0) {
            prop_assert_eq!(at.get(&segment.source), Some(&segment.to));
        }
    }

    #[test]
    fn the_accounting_is_exact(steps in steps()) {
        let batch = batch_of(&steps);
        prop_assert!(batch.rejected_records(0..batch.len()).all(|reject| batch.record(reject.record).offset % 7 == 0));
        let rejected_records = batch.rejected_records(0..batch.len()).count();
        let skipped = (0..batch.len()).filter(|record| {
            let offset = batch.record(*record).offset;
            offset % 5 == 0 && offset % 7 != 0
        }).count();
        prop_assert_eq!(batch.len() as usize, batch.row_count() as usize + rejected_records + skipped);
    }

    #[test]
    fn a_row_leads_back_to_its_record(steps in steps(), dropped in proptest::option::of(0usize..3), start in 0u32..80) {
        let mut batch = batch_of(&steps);
        if let Some(segment) = dropped {
            batch.drop_segment(segment);
        }
        let window = start.min(batch.len())..batch.len();
        let copied = text(&batch, window.clone());
        for (nth, row) in copied.split_terminator(';').enumerate() {
            let record = batch.record_of_row(window.clone(), u32::try_from(nth).unwrap()).unwrap();
            let record = batch.record(record);
            prop_assert_eq!(row, format!("{}:{}", record.partition, record.offset));
        }
        prop_assert_eq!(batch.record_of_row(window.clone(), batch.rows_in(window)), None);
    }

    #[test]
    fn encoding_again_gives_the_same_bytes(steps in steps()) {
        let mut batch = batch_of(&steps);
        let before = (text(&batch, 0..batch.len()), batch.rejected_records(0..batch.len()).cloned().collect::<Vec<_>>());
        batch.encode_again(encode);
        let after = (text(&batch, 0..batch.len()), batch.rejected_records(0..batch.len()).cloned().collect::<Vec<_>>());
        prop_assert_eq!(before, after);
    }
}
