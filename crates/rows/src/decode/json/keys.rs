//! The keys that a decoder knows, and its guess of the key that comes next.
//!
//! Records of a topic have the same keys in the same order, mostly. Each key remembers the two keys that followed it last
//! (two, for fields that come and go, and for topics with two producers); where one of them stands in the text again, it is
//! found by one comparison. So that the guess also carries over keys that no column takes, these are remembered too, up to a
//! limit.

use std::collections::HashMap;

use crate::decode::Path;

/// Keys without a column that an object may teach us.
const LEARNED_KEYS: u16 = 256;
/// Longer ones aren't learned.
const LEARNED_KEY_LEN: usize = 64;
/// As many bytes of a key are compared in one step.
const HEAD: usize = 16;

/// The action for a key's value. Both parts may be set: a column takes the object, and others look into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) slot: Option<u16>,
    pub(super) node: Option<u16>,
}

impl Target {
    /// No column takes it.
    pub(super) const NONE: Target = Target { slot: None, node: None };
}

/// A key.
#[derive(Debug)]
struct Key {
    /// The first bytes of `text`, and which of them count.
    head: u128,
    mask: u128,
    /// As it stands in a text without spaces: `"lat":`.
    text: Box<[u8]>,
    target: Target,
    next: Followers,
}

/// The keys that came last at some place, the newest one first.
type Followers = [KeyId; 2];

/// An object that columns look into.
#[derive(Debug, Default)]
struct Node {
    /// By the key's own bytes, without quotes.
    keys: HashMap<Box<[u8]>, u16>,
    /// The keys that came first.
    first: Followers,
    /// Slots at and below this object.
    slots: Vec<u16>,
    learned: u16,
}

/// A key's place in the table.
pub(super) type KeyId = u16;

/// The keys of all objects that columns look into. Node 0 is the record.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    nodes: Vec<Node>,
}

impl Keys {
    /// Slot `i` is for `paths[i]`.
    pub(super) fn new(paths: &[Path]) -> Self {
        let mut this = Self { keys: Vec::new(), nodes: vec![Node::default()] };
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

    /// The object that paths look into under this name of another one.
    pub(super) fn node(&self, of: u16, name: &[u8]) -> Option<u16> {
        let id = self.nodes[usize::from(of)].keys.get(name)?;
        self.keys[usize::from(*id)].target.node
    }

    fn key_of(&mut self, node: u16, name: &[u8]) -> KeyId {
        if let Some(id) = self.nodes[usize::from(node)].keys.get(name) {
            return *id;
        }
        let id = KeyId::try_from(self.keys.len()).expect("columns and learned keys are far fewer than 65 536");
        let text: Box<[u8]> = [b"\"", name, b"\":"].concat().into();
        let mut head = [0; HEAD];
        let mut mask = [0; HEAD];
        for ((h, m), byte) in head.iter_mut().zip(&mut mask).zip(&text) {
            (*h, *m) = (*byte, 0xff);
        }
        let (head, mask) = (u128::from_le_bytes(head), u128::from_le_bytes(mask));
        self.keys.push(Key { head, mask, text, target: Target::NONE, next: [id; 2] });
        self.nodes[usize::from(node)].keys.insert(name.into(), id);
        id
    }

    fn node_of(&mut self, key: KeyId) -> u16 {
        let next = u16::try_from(self.nodes.len()).expect("as many objects as path elements at the most");
        let node = *self.keys[usize::from(key)].target.node.get_or_insert(next);
        if node == next {
            self.nodes.push(Node::default());
        }
        node
    }

    /// Before the first record: the order in which the columns stand.
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

    /// A key that is likely after `previous`, if the text goes on with it, colon and all: the key, and its length.
    #[inline]
    pub(super) fn guess(&self, node: u16, previous: Option<KeyId>, text: &[u8]) -> Option<(KeyId, Target, usize)> {
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

    /// The key of this name, remembered as the one that follows `previous`.
    pub(super) fn find(&mut self, node: u16, previous: Option<KeyId>, name: &[u8]) -> Option<(KeyId, Target)> {
        let place = &self.nodes[usize::from(node)];
        let id = match place.keys.get(name) {
            Some(id) => *id,
            None if place.learned < LEARNED_KEYS && name.len() <= LEARNED_KEY_LEN && is_plain(name) => {
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

    /// How many keys are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Slots of fields within this object.
    pub(super) fn slots_below(&self, node: u16) -> &[u16] {
        &self.nodes[usize::from(node)].slots
    }
}

/// Whether a key stands in a text as it is, without escapes: only then can a comparison of bytes find it again.
fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|b| !matches!(b, 0..0x20 | b'"' | b'\\'))
}
