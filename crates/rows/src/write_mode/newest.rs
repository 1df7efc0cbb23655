//! Picks the rows of a batch that may win among the rows with the same key. So fewer rows are staged, sorted and discarded in
//! Postgres.
//!
//! Keys are compared as bytes. Equal bytes mean equal keys, whatever the type. Rows whose keys are equal but have different bytes
//! (`1.0` and `1.00`, or letters that a collation treats as equal) are all copied, and the merge decides. So this module leaves
//! out only rows that the merge would discard, which doesn't change the result.

use std::hash::{BuildHasher, Hasher, RandomState};

use crate::catalog::{Catalog, TypeKind};
use crate::spec::WriteMode;

/// How the rows of a plan are compared, to find those that may be the newest of their key. `key` has the indexes of the key's
/// columns in the row, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    key: Vec<usize>,
    newer_by: Option<usize>,
    /// Whether each row ends with a field that says if the row is a tombstone. If so, up to two rows of each key are copied: the
    /// last tombstone, and the last row that isn't a tombstone.
    marked: bool,
}

/// A row, with its index among all rows of the input.
pub type Placed<'a> = (u32, &'a [u8]);

/// The memory, in bytes, that picking needs per row of a batch. This includes the hash table and the result.
pub const BYTES_PER_ROW: u64 = 96;

/// A row of the input. `hash` is the hash of the row's key, and `lost` is set if another row of the key wins.
struct Seen<'a> {
    placed: Placed<'a>,
    hash: u64,
    /// The value in the column `newer_by`. `None` (NULL) is older than every other value.
    time: Option<i64>,
    lost: bool,
}

impl Newest {
    /// Returns how the rows of an upsert are compared. Returns `None` in these cases:
    /// - another mode, or `newer_by` together with `deletes`
    /// - the rows lack a column of the key, or `newer_by`
    /// - only Postgres can compare the values of `newer_by`
    pub(super) fn of(mode: &WriteMode, columns: &[&str], catalog: &Catalog) -> Option<Self> {
        let WriteMode::Upsert { key, newer_by, deletes } = mode else { return None };
        let place = |name: &str| columns.iter().position(|column| *column == name);
        let mut places = key.iter().map(|name| place(name)).collect::<Option<Vec<_>>>()?;
        places.sort_unstable();
        let newer_by = match newer_by {
            None => None,
            // A row that comes after a tombstone wins over a newer row before the tombstone, so times alone can't decide.
            Some(_) if *deletes => return None,
            Some(name) => {
                let column = catalog.columns.iter().find(|column| column.name == *name)?;
                let counts = ["int2", "int4", "int8", "date", "timestamp", "timestamptz"];
                let is_number = column.kind == TypeKind::Scalar && counts.contains(&column.base_type.as_str());
                Some(is_number.then(|| place(name))??)
            }
        };
        Some(Self { key: places, newer_by, marked: *deletes })
    }

    /// Returns the rows that may win, in the order of the input.
    pub fn pick<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Vec<Placed<'a>> {
        let hasher = RandomState::new();
        let seen = |(place, row): Placed<'a>| {
            let (hash, time) = self.read(row, &hasher);
            Seen { placed: (place, row), hash, time, lost: false }
        };
        let mut seen: Vec<Seen<'a>> = (0_u32..).zip(rows).map(seen).collect();
        // An entry of the hash table is the index of a row plus 1, or 0 if the entry is empty. The table has at least twice as
        // many entries as rows, so that a probe rarely takes more than one step. `hashbrown::HashTable` is slower for few keys:
        // see the benchmark `newest`.
        let mut table = vec![0_u32; (seen.len() * 2).next_power_of_two()];
        let mask = table.len() - 1;
        for at in 0..seen.len() {
            let mut place = usize::try_from(seen[at].hash & mask as u64).unwrap_or(0);
            loop {
                let Some(other) = (table[place] as usize).checked_sub(1) else {
                    table[place] = number(at);
                    break;
                };
                if seen[other].hash == seen[at].hash && self.same(seen[other].placed.1, seen[at].placed.1) {
                    if seen[at].time >= seen[other].time {
                        seen[other].lost = true;
                        table[place] = number(at);
                    } else {
                        seen[at].lost = true;
                    }
                    break;
                }
                place = (place + 1) & mask;
            }
        }
        seen.into_iter().filter(|row| !row.lost).map(|row| row.placed).collect()
    }

    #[inline]
    fn read(&self, row: &[u8], hasher: &RandomState) -> (u64, Option<i64>) {
        let (mut hash, mut time) = (hasher.build_hasher(), None);
        let mut key = self.key.as_slice();
        for (place, field) in fields(row).enumerate() {
            if let Some((wanted, rest)) = key.split_first()
                && *wanted == place
            {
                // `field` begins with its length, so fields of different keys can't form the same bytes.
                hash.write(field);
                key = rest;
            }
            if self.newer_by == Some(place) {
                time = count(&field[4..]);
            }
        }
        if self.marked {
            hash.write(row.last_chunk::<1>().map_or(&[], |mark| mark));
        }
        (hash.finish(), time)
    }

    fn same(&self, one: &[u8], other: &[u8]) -> bool {
        let key = |row| fields(row).enumerate().filter(|(place, _)| self.key.contains(place)).map(|(_, field)| field);
        (!self.marked || one.last() == other.last()) && key(one).eq(key(other))
    }
}

fn number(row: usize) -> u32 {
    u32::try_from(row + 1).expect("a batch counts its rows in 32 bits")
}

/// Reads a whole number of 2, 4 or 8 bytes. Returns `None` for NULL, which is empty.
fn count(field: &[u8]) -> Option<i64> {
    match field.len() {
        8 => field.first_chunk().map(|bytes| i64::from_be_bytes(*bytes)),
        4 => field.first_chunk().map(|bytes| i64::from(i32::from_be_bytes(*bytes))),
        2 => field.first_chunk().map(|bytes| i64::from(i16::from_be_bytes(*bytes))),
        _ => None,
    }
}

/// Iterates over the fields of a row of binary COPY. Each field begins with the four bytes of its length.
fn fields(row: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = row.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = i32::from_be_bytes(*rest.first_chunk()?);
        let field;
        (field, rest) = rest.split_at_checked(4 + usize::try_from(length).unwrap_or(0))?;
        Some(field)
    })
}

pub fn rows(mut stretch: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let count = u16::from_be_bytes(*stretch.first_chunk()?);
        let length = fields(stretch).take(usize::from(count)).map(<[u8]>::len).sum::<usize>();
        let row;
        (row, stretch) = stretch.split_at_checked(2 + length)?;
        Some(row)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn row(id: i32, note: &str, time: Option<i64>, mark: bool) -> Vec<u8> {
        let mut row = 4_u16.to_be_bytes().to_vec();
        let mut put = |field: Option<&[u8]>| match field {
            None => row.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(field) => {
                row.extend_from_slice(&u32::try_from(field.len()).expect("short").to_be_bytes());
                row.extend_from_slice(field);
            }
        };
        put(Some(&id.to_be_bytes()));
        put(Some(note.as_bytes()));
        put(time.map(i64::to_be_bytes).as_ref().map(|time| &time[..]));
        put(Some(&[u8::from(mark)]));
        row
    }

    fn picked(newest: &Newest, all: &[Vec<u8>]) -> Vec<u32> {
        let stretch = all.concat();
        let found = newest.pick(rows(&stretch));
        assert!(found.iter().all(|(place, row)| all[*place as usize] == *row), "a row is another");
        found.into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn the_last_row_of_each_key_stays_and_keys_do_not_run_together() {
        let newest = Newest { key: vec![0, 1], newer_by: None, marked: false };
        let all: Vec<_> =
            [(1, "a"), (2, "a"), (1, "b"), (1, "a"), (2, "")].map(|(id, note)| row(id, note, None, false)).into();
        assert_eq!(picked(&newest, &all), [1, 2, 3, 4]);
        assert!(picked(&newest, &[]).is_empty());
    }

    #[test]
    fn a_tombstone_and_what_comes_behind_it_both_stay() {
        let newest = Newest { key: vec![0], newer_by: None, marked: true };
        let all = [(1, false), (1, true), (1, true), (1, false), (1, false), (2, true)];
        let all: Vec<_> = all.map(|(id, mark)| row(id, "", None, mark)).into();
        assert_eq!(picked(&newest, &all), [2, 4, 5]);
    }

    proptest! {
        #[test]
        fn the_newest_of_a_key_stays_and_of_equals_the_last(
            all in proptest::collection::vec((0..20_i32, proptest::option::of(-3..3_i64)), 0..200),
        ) {
            let newest = Newest { key: vec![0], newer_by: Some(2), marked: false };
            let mut winners: BTreeMap<i32, (Option<i64>, u32)> = BTreeMap::new();
            for ((id, time), place) in all.iter().zip(0..) {
                let entry = winners.entry(*id).or_insert((*time, place));
                if *time >= entry.0 {
                    *entry = (*time, place);
                }
            }
            let mut expected: Vec<u32> = winners.values().map(|(_, place)| *place).collect();
            expected.sort_unstable();
            let rows: Vec<_> = all.iter().map(|(id, time)| row(*id, "x", *time, false)).collect();
            prop_assert_eq!(picked(&newest, &rows), expected);
        }
    }
}
