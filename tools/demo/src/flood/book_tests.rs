use super::*;

const SECOND: u32 = 1_000_000;

fn ten() -> Book {
    let mut book = Book::default();
    for n in 0..10 {
        book.sent(n * 100_000, n * 100_000 + 10, 100);
    }
    book
}

#[test]
fn each_record_is_counted_in_the_bin_of_each_event() {
    let mut book = ten();
    for index in 0..10 {
        let mark = book.mark(index).unwrap();
        (mark.acked, mark.freed) = (mark.due + 2_000, mark.due + 2_000);
        book.row(index, 1_200_000);
    }
    let bins = book.bins(500_000, 2 * SECOND);
    assert_eq!(bins.len(), 4);
    assert_eq!([bins[0].intended, bins[0].sent, bins[0].acked, bins[0].committed], [5, 5, 5, 0]);
    assert_eq!(bins.iter().map(|bin| bin.backlog).collect::<Vec<_>>(), [5, 10, 0, 0]);
    assert_eq!(bins[2].committed, 10);
    assert_eq!((bins[0].wait_p50, bins[0].wait_max, bins[2].wait_p50), (Some(2_000), Some(2_000), None));
    assert_eq!(bins[3].second, 2.0);
}

#[test]
fn the_buffer_holds_what_is_sent_and_not_freed() {
    let mut book = ten();
    book.mark(9).unwrap().refused = true;
    for index in 0..4 {
        book.mark(index).unwrap().freed = 700_000;
    }
    let buffer: Vec<u64> = book.bins(500_000, SECOND).iter().map(|bin| bin.buffer_bytes).collect();
    assert_eq!(buffer, [500, 500]);
}

#[test]
fn waiting_counts_from_the_intended_time_also_for_who_was_sent_late_or_never_answered() {
    let mut book = Book::default();
    // The record was due at 0, but the sender was stuck for 3 s. So an answer 1 ms after the sending means a wait of 3.001 s.
    book.sent(0, 3 * SECOND, 100);
    book.mark(0).unwrap().acked = 3 * SECOND + 1_000;
    book.sent(SECOND, SECOND, 100);
    let tally = book.tally(10 * SECOND);
    assert_eq!(tally.longest_wait, 9 * SECOND);
    assert_eq!(book.bins(SECOND, 10 * SECOND)[0].wait_max, Some(3 * SECOND + 1_000));
}

#[test]
fn the_reconciliation_tells_broken_promises_from_refusals_and_from_who_still_waits() {
    let mut book = ten();
    book.mark(0).unwrap().refused = true;
    for index in 1..6 {
        book.mark(index).unwrap().acked = SECOND;
    }
    // Record 1 is in the table once, 2 twice, 3 three times. Records 4 and 5 were acknowledged, but are missing. Record 6 is in
    // the table, but was not acknowledged.
    for index in [1, 2, 2, 3, 3, 3, 6] {
        book.row(index, SECOND);
    }
    let tally = book.tally(2 * SECOND);
    assert_eq!(
        tally,
        Tally {
            intended: 10,
            refused: 1,
            acked: 5,
            rows: 7,
            in_table: 4,
            twice: 3,
            missing: 2,
            waiting: 3,
            longest_wait: 1_400_000
        }
    );
}

#[test]
fn it_has_caught_up_once_no_more_than_the_rest_waits() {
    let mut book = ten();
    for index in 0..8 {
        book.row(index, SECOND + index * 100_000);
    }
    assert_eq!(book.backlog(950_000), 10);
    assert_eq!(book.backlog(1_350_000), 6);
    assert_eq!(book.caught_up(SECOND, 3 * SECOND, 2), Some(1_750_000));
    assert_eq!(book.caught_up(SECOND, 3 * SECOND, 1), None);
    // Records that are lost with their writer leave the backlog when the writer is killed.
    for index in [8, 9] {
        let mark = book.mark(index).unwrap();
        (mark.acked, mark.lost) = (SECOND, 2 * SECOND);
    }
    assert_eq!(book.caught_up(SECOND, 3 * SECOND, 0), Some(2_050_000));
}

#[test]
fn the_latency_to_the_commit_is_that_of_the_early_records_that_are_in() {
    let mut book = ten();
    for index in 0..10 {
        book.row(index, index * 100_000 + 1_000 * (index + 1));
    }
    assert_eq!(book.commit_latency(500_000), Some((3_000, 5_000)));
    assert_eq!(ten().commit_latency(SECOND), None);
}
