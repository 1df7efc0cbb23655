//! The keys that a decoder knows, and its guess of the next key.
//!
//! Records of a topic mostly have the same keys in the same order, so each key remembers two keys that followed it. One wouldn't
//! be enough if fields are optional, or if a topic has two producers. The next key of a text is first compared with these two. If
//! it is one of them, the hash table isn't needed. Keys without a column are remembered too, up to a limit.

use std::collections::HashMap;

use crate::decode::Path;

/// How many keys without a column are remembered per [`KeyNode`].
const LEARNED_KEYS: u16 = 256;
/// No key without a column is added if a decoder has this many keys.
const MOST_KEYS: usize = 16_384;
/// The length in bytes of the longest key without a column that is remembered.
const LEARNED_KEY_LEN: usize = 64;
/// How many bytes of a key are compared as one number.
const HEAD: usize = 16;

/// How to treat the value of a key. `slot` is set if a column takes the whole value. `node` is set if columns take parts of the
/// value: it is the index of the value's [`KeyNode`]. Both may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyTarget {
    pub(super) slot: Option<u16>,
    pub(super) node: Option<u16>,
}

impl KeyTarget {
    pub(super) const NONE: KeyTarget = KeyTarget { slot: None, node: None };
}

/// A known key of one object. `text` is the key as it occurs in a text without spaces: `"lat":`. `head` has the first bytes of
/// `text`, filled up with zeros, and `mask` selects those bytes of `head` that belong to `text`. `next` are the guesses for the
/// key after this one.
#[derive(Debug)]
struct Key {
    head: u128,
    mask: u128,
    text: Box<[u8]>,
    target: KeyTarget,
    next: Followers,
}

/// The two guesses for the next key. If both are wrong, the key that was found becomes the first guess, and the previous first
/// guess becomes the second. A key that can't be remembered changes nothing.
type Followers = [KeyId; 2];

/// An object from which columns take parts. `keys` has its known keys, by their names without quotes. `first` has the guesses for
/// its first key. `slots` has the slots of all columns that take a value inside this object, at any depth. `learned` is the
/// number of known keys without a column.
#[derive(Debug, Default)]
struct KeyNode {
    keys: HashMap<Box<[u8]>, u16>,
    first: Followers,
    slots: Vec<u16>,
    learned: u16,
}

/// The index of a [`Key`] in the field `keys` of [`Keys`].
pub(super) type KeyId = u16;

/// The keys of all objects from which columns take parts, and a node per object. Node 0 is the record.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    nodes: Vec<KeyNode>,
}

impl Keys {
    /// Makes the keys and nodes that `paths` need. Slot `i` is for `paths[i]`.
    pub(super) fn new(paths: &[Path]) -> Self {
        let mut this = Self { keys: Vec::new(), nodes: vec![KeyNode::default()] };
        for (slot, path) in (0_u16..).zip(paths) {
            let mut node = 0;
            for (level, name) in path.iter().enumerate() {
                let id = this.key_of(node, name.as_bytes());
                if level + 1 == path.len() {
                    this.keys[usize::from(id)].target.slot = Some(slot);
                } else {
                    node = this.node_of(id);
                    this.nodes[usize::from(node)].slots.push(slot);
                }
            }
        }
        this.guess_declared_order();
        this
    }

    /// Returns the node of the member `name` in the object with the node `of`, if paths look into this member.
    pub(super) fn node(&self, of: u16, name: &[u8]) -> Option<u16> {
        let id = self.nodes[usize::from(of)].keys.get(name)?;
        self.keys[usize::from(*id)].target.node
    }

    fn key_of(&mut self, node: u16, name: &[u8]) -> KeyId {
        if let Some(id) = self.nodes[usize::from(node)].keys.get(name) {
            return *id;
        }
        let id = KeyId::try_from(self.keys.len())
            .expect("learning stops at MOST_KEYS, and a table has at most 1600 columns");
        let text: Box<[u8]> = [b"\"", name, b"\":"].concat().into();
        let mut head = [0; HEAD];
        let mut mask = [0; HEAD];
        for ((h, m), byte) in head.iter_mut().zip(&mut mask).zip(&text) {
            (*h, *m) = (*byte, 0xff);
        }
        let (head, mask) = (u128::from_le_bytes(head), u128::from_le_bytes(mask));
        self.keys.push(Key { head, mask, text, target: KeyTarget::NONE, next: [id; 2] });
        self.nodes[usize::from(node)].keys.insert(name.into(), id);
        id
    }

    fn node_of(&mut self, key: KeyId) -> u16 {
        let next = u16::try_from(self.nodes.len()).expect("as many objects as path elements at the most");
        let node = *self.keys[usize::from(key)].target.node.get_or_insert(next);
        if node == next {
            self.nodes.push(KeyNode::default());
        }
        node
    }

    /// Sets the guesses for the first record: that the keys come in the order of the columns.
    fn guess_declared_order(&mut self) {
        for node in &mut self.nodes {
            let mut ids: Vec<_> = node.keys.values().copied().collect();
            ids.sort_unstable();
            node.first = [ids.first().copied().unwrap_or(0); 2];
            for pair in ids.windows(2) {
                self.keys[usize::from(pair[0])].next = [pair[1]; 2];
            }
        }
    }

    /// Compares the start of `text` with the two guesses for the key after `previous`; `None` means the beginning of an object.
    /// If one matches, returns that key, its target, and its length including the colon.
    #[inline]
    pub(super) fn guess(&self, node: u16, previous: Option<KeyId>, text: &[u8]) -> Option<(KeyId, KeyTarget, usize)> {
        let followers = match previous {
            Some(key) => &self.keys.get(usize::from(key))?.next,
            None => &self.nodes.get(usize::from(node))?.first,
        };
        let head = text.first_chunk::<HEAD>().map(|head| u128::from_le_bytes(*head));
        followers.iter().find_map(|id| {
            let key = self.keys.get(usize::from(*id))?;
            let len = key.text.len();
            let hit = match head {
                Some(head) => (head ^ key.head) & key.mask == 0 && (len <= HEAD || text.starts_with(&key.text)),
                None => text.starts_with(&key.text),
            };
            hit.then_some((*id, key.target, len))
        })
    }

    /// Looks up a key by name, and makes it the first guess after `previous`. If `previous` is `None`, the key becomes the first
    /// guess for the object's first key. An unknown key is added; `None` if it needs escapes or a limit is reached.
    pub(super) fn find(&mut self, node: u16, previous: Option<KeyId>, name: &[u8]) -> Option<(KeyId, KeyTarget)> {
        let place = &self.nodes[usize::from(node)];
        let id = match place.keys.get(name) {
            Some(id) => *id,
            None if place.learned < LEARNED_KEYS
                && self.keys.len() < MOST_KEYS
                && name.len() <= LEARNED_KEY_LEN
                && is_plain(name) =>
            {
                self.nodes[usize::from(node)].learned += 1;
                self.key_of(node, name)
            }
            None => return None,
        };
        let followers = match previous {
            Some(key) => &mut self.keys[usize::from(key)].next,
            None => &mut self.nodes[usize::from(node)].first,
        };
        *followers = [id, followers[0]];
        Some((id, self.keys[usize::from(id)].target))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn slots_below(&self, node: u16) -> &[u16] {
        &self.nodes[usize::from(node)].slots
    }
}

/// Returns whether a key needs no escapes in JSON. Other keys aren't learned: records contain them with escapes, so comparing
/// them with the unescaped name would never match.
fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|b| !matches!(b, 0..0x20 | b'"' | b'\\'))
}
