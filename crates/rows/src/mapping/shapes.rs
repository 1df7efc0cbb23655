//! The shapes of a table's rows. A shape is the set of columns that a row leaves out.
//!
//! Binary COPY can't express DEFAULT, so a row gets a column's default only if the COPY doesn't name the column. Rows of several
//! shapes are sent by one COPY per shape.

use crate::mapping::mark;

/// A column that a row may leave out. The column then gets its default from Postgres. Except: if `keeps` is set, an upsert of an
/// existing row keeps the column's value, unless the merge compares the column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Unquoted.
    pub name: String,
    /// The column's index in a complete row, which leaves no column out.
    pub place: usize,
    pub keeps: bool,
}

/// The columns of one table that its rows may leave out. A column's index is the number of its bit in a row's mask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    columns: Vec<LeftOut>,
}

impl Shapes {
    /// Adds a column, and returns the number of its bit in the masks. The arguments are those of [`LeftOut`].
    pub(super) fn add(&mut self, name: &str, place: usize, keeps: bool) -> u16 {
        self.columns.push(LeftOut { name: name.to_owned(), place, keeps });
        u16::try_from(self.columns.len() - 1).expect("a table has at most 1600 columns")
    }

    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    pub fn bits(&self) -> usize {
        self.columns.len()
    }

    /// Returns the length of a mask in bytes. This is 0 if all rows have all columns.
    pub fn mask_bytes(&self) -> usize {
        self.columns.len().div_ceil(8)
    }

    /// Returns [`LeftOut::keeps`] of the column with this bit.
    pub(super) fn keeps(&self, bit: u16) -> bool {
        self.columns.get(usize::from(bit)).is_some_and(|column| column.keeps)
    }

    /// Returns the columns that a row may leave out, each with the number of its bit in the row's mask. The bit is set if the row
    /// leaves the column out.
    pub fn columns(&self) -> impl Iterator<Item = (u16, &LeftOut)> {
        (0_u16..).zip(&self.columns)
    }

    /// Returns the columns of a row with this mask. `columns` are the columns of a complete row.
    pub fn present<'a>(&self, columns: &[&'a str], mask: &[u8]) -> Vec<&'a str> {
        let left_out = |place: usize| self.columns().any(|(bit, column)| column.place == place && mark::has(mask, bit));
        columns.iter().enumerate().filter(|(place, _)| !left_out(*place)).map(|(_, name)| *name).collect()
    }

    /// Converts `place`, a column's index in a complete row, to its index in a row with this mask. Returns `None` if the row
    /// leaves the column out.
    pub fn place_in(&self, place: usize, mask: &[u8]) -> Option<usize> {
        let mut before = 0;
        for (_, column) in self.columns().filter(|(bit, _)| mark::has(mask, *bit)) {
            if column.place == place {
                return None;
            }
            before += usize::from(column.place < place);
        }
        Some(place - before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_columns_that_its_mask_leaves_it() {
        let mut shapes = Shapes::default();
        assert_eq!((shapes.add("id", 0, false), shapes.add("at", 2, true)), (0, 1));
        assert_eq!(shapes.mask_bytes(), 1);
        let all = ["id", "v", "at"];
        assert_eq!(shapes.present(&all, &[0]), all);
        assert_eq!(shapes.present(&all, &[0b1000_0000]), ["v", "at"]);
        assert_eq!(shapes.present(&all, &[0b1100_0000]), ["v"]);
        let places = [0, 1, 2].map(|place| shapes.place_in(place, &[0b1000_0000]));
        assert_eq!(places, [None, Some(0), Some(1)]);
    }
}
