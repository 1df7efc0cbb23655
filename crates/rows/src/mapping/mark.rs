//! The mark in front of each row of a batch. Rows have marks only if the rows of a pipeline may differ in their table, or in the
//! columns that they have.
//!
//! A mark has three parts: the index of the row's table in the plan, the length in bytes of all that follows (mask and row), and
//! the mask. The mask has one bit for each column of the table that a record may leave out. A set bit means that the row has no
//! field for that column. The mask has the same bytes as a `bit(n)`, so that COPY can send it.

use std::ops::Range;

use crate::value::Reason;

/// The number of bytes in front of a mark's mask: two for the table's index, and four for the length.
const HEAD: usize = 6;

/// The mark of a row that is being written. `start` is the position of the row in the buffer, right after the mark.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    start: usize,
    mask_bytes: usize,
    table: u16,
}

impl Mark {
    /// Reserves space for a mark whose mask has `mask_bytes` bytes. No bit of the mask is set. The caller then appends the row.
    #[inline]
    pub(super) fn open(table: u16, mask_bytes: usize, rows: &mut Vec<u8>) -> Self {
        rows.resize(rows.len() + HEAD + mask_bytes, 0);
        Self { start: rows.len(), mask_bytes, table }
    }

    /// Marks that the row has no field for a column, and lowers the row's count of fields by one.
    pub(super) fn leave_out(self, bit: u16, rows: &mut [u8]) {
        let (byte, bit) = place(bit);
        rows[self.start - self.mask_bytes + byte] |= bit;
        if let Some(count) = rows.get_mut(self.start..).and_then(|row| row.first_chunk_mut::<2>()) {
            *count = (u16::from_be_bytes(*count) - 1).to_be_bytes();
        }
    }

    /// Completes the mark, after the row was written to the end of `rows`.
    ///
    /// # Errors
    /// [`Reason::TooLarge`] if the mask and the row together have 4 GiB or more.
    #[inline]
    pub(super) fn close(self, rows: &mut [u8]) -> Result<(), Reason> {
        let mask = self.start - self.mask_bytes;
        let len = u32::try_from(rows.len() - mask).map_err(|_| Reason::TooLarge)?;
        rows[mask - HEAD..mask - 4].copy_from_slice(&self.table.to_be_bytes());
        rows[mask - 4..mask].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

/// Iterates over marked rows. Yields for each row the index of its table, and one range of bytes that contains the mask and then
/// the row.
pub fn marked(rows: &[u8]) -> impl Iterator<Item = (u16, Range<usize>)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let head: &[u8; HEAD] = rows.get(at..)?.first_chunk()?;
        let [a, b, len @ ..] = *head;
        let start = at + HEAD;
        at = start + u32::from_be_bytes(len) as usize;
        Some((u16::from_be_bytes([a, b]), start..at))
    })
}

pub fn has(mask: &[u8], bit: u16) -> bool {
    let (byte, bit) = place(bit);
    mask.get(byte).is_some_and(|mask| mask & bit != 0)
}

/// Returns where a bit is in the mask: the index of its byte, and its value in this byte. Bit 0 is the highest bit of the first
/// byte, as in a `bit(n)`.
fn place(bit: u16) -> (usize, u8) {
    (usize::from(bit / 8), 0x80 >> (bit % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_rows_are_found_again() {
        let mut rows = Vec::new();
        for (table, row) in [(3_u16, &b"abc"[..]), (0, b""), (65_535, b"defgh")] {
            let mark = Mark::open(table, 0, &mut rows);
            rows.extend_from_slice(row);
            mark.close(&mut rows).expect("a short row");
        }
        let found: Vec<_> = marked(&rows).map(|(table, range)| (table, &rows[range])).collect();
        assert_eq!(found, [(3, &b"abc"[..]), (0, b""), (65_535, b"defgh")]);
    }

    #[test]
    fn a_mask_says_which_columns_a_row_has_not() {
        let mut rows = b"before".to_vec();
        let mark = Mark::open(1, 2, &mut rows);
        rows.extend_from_slice(&[0, 9]);
        mark.leave_out(0, &mut rows);
        mark.leave_out(10, &mut rows);
        mark.close(&mut rows).expect("a short row");
        let rows = &rows[6..];
        let (table, range) = marked(rows).next().expect("one row");
        let (mask, row) = rows[range].split_at(2);
        assert_eq!((table, mask, row), (1, &[0b1000_0000, 0b0010_0000][..], &[0, 7][..]));
        let bits: Vec<u16> = (0..16).filter(|bit| has(mask, *bit)).collect();
        assert_eq!(bits, [0, 10]);
        assert!(!has(mask, 99));
    }
}
