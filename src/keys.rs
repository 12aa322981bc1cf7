//! Keys that do not go stale: a slot, and the generation of whoever lives there.
//!
//! A completion may arrive when its connection is gone and the slot has a new tenant. The
//! generation tells the two apart, so a late answer finds nobody instead of the wrong one.

use std::fmt;

use slab::Slab;

/// Which connection. Printed as `slot.generation`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    slot: u32,
    /// 24 bits: what a [`Token`](crate::ring::Token) has room for.
    generation: u32,
}

const GENERATIONS: u32 = 1 << 24;

impl ConnId {
    /// The id of this tenant of this slot; the generation is taken modulo 2²⁴.
    pub const fn new(slot: u32, generation: u32) -> ConnId {
        ConnId { slot, generation: generation % GENERATIONS }
    }

    /// The slot: small, and used again.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// The how-manieth tenant of its slot, modulo 2²⁴.
    pub fn generation(self) -> u32 {
        self.generation
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Number of a listener of its server, from 0, in the order in which they were added. The connections
/// of one listener form a broadcast group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

impl ListenerId {
    /// Its index in a table of all listeners.
    pub fn index(self) -> usize {
        self.0.into()
    }
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a descriptor is known by to who reports of it or records what is done with it: the caller's
/// choice, given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub u64);

/// Whose a descriptor is, to be packed into a [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner {
    /// A connection's.
    Conn(ConnId),
    /// A listener's: which.
    Listener(ListenerId),
    /// What stops the loop.
    Shutdown,
    /// What is typed at the console.
    Console,
    /// A descriptor of the loop's owner: which.
    External(u32),
    /// The line between the parent and the child that serves this connection: only in a trace,
    /// where all processes know connections by the same names.
    Link(ConnId),
}

const LINK: u64 = 1 << 60;
const EXTERNAL: u64 = 1 << 61;
const LISTENER: u64 = 1 << 62;
const SHUTDOWN: u64 = 1 << 63;
const CONSOLE: u64 = SHUTDOWN | 1;

impl From<KeyOwner> for Key {
    fn from(whose: KeyOwner) -> Key {
        let name = |conn: ConnId| u64::from(conn.generation()) << 32 | u64::from(conn.slot());
        Key(match whose {
            KeyOwner::Conn(conn) => name(conn),
            KeyOwner::Listener(ListenerId(number)) => LISTENER | u64::from(number),
            KeyOwner::Shutdown => SHUTDOWN,
            KeyOwner::Console => CONSOLE,
            KeyOwner::External(guest) => EXTERNAL | u64::from(guest),
            KeyOwner::Link(conn) => LINK | name(conn),
        })
    }
}

impl From<Key> for KeyOwner {
    fn from(Key(key): Key) -> KeyOwner {
        let conn = ConnId::new(key as u32, (key >> 32) as u32);
        match key {
            _ if key < LINK => KeyOwner::Conn(conn),
            SHUTDOWN => KeyOwner::Shutdown,
            CONSOLE => KeyOwner::Console,
            _ if key & LISTENER != 0 => KeyOwner::Listener(ListenerId(key as u16)),
            _ if key & EXTERNAL != 0 => KeyOwner::External(key as u32),
            _ => KeyOwner::Link(conn),
        }
    }
}

/// A slab whose keys know their tenant.
#[derive(Debug)]
pub struct ConnSlab<T> {
    slots: Slab<T>,
    /// Of each slot that was ever used, its present or next tenant's generation.
    generations: Vec<u32>,
}

impl<T> ConnSlab<T> {
    /// Nobody lives here.
    pub fn new() -> ConnSlab<T> {
        ConnSlab { slots: Slab::new(), generations: Vec::new() }
    }

    /// Moves `value` in.
    pub fn insert(&mut self, value: T) -> ConnId {
        let id = self.next_id();
        let slot = self.slots.insert(value);
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        id
    }

    /// The key that the next who moves in will have.
    pub fn next_id(&self) -> ConnId {
        let slot = self.slots.vacant_key();
        ConnId { slot: slot as u32, generation: self.generations.get(slot).copied().unwrap_or(0) }
    }

    /// Moves it out; its key is of no use from now on.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        if !self.lives(id) {
            return None;
        }
        let generation = &mut self.generations[id.slot as usize];
        *generation = (*generation + 1) % GENERATIONS;
        Some(self.slots.remove(id.slot as usize))
    }

    /// The tenant, if it still lives here.
    pub fn get(&self, id: ConnId) -> Option<&T> {
        if self.lives(id) { self.slots.get(id.slot as usize) } else { None }
    }

    /// The tenant, to change.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        if self.lives(id) { self.slots.get_mut(id.slot as usize) } else { None }
    }

    fn lives(&self, id: ConnId) -> bool {
        self.generations.get(id.slot as usize) == Some(&id.generation)
            && self.slots.contains(id.slot as usize)
    }

    /// How many live here.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All of them, to look at, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        let generations = &self.generations;
        self.slots.iter().map(|(slot, value)| {
            (ConnId { slot: slot as u32, generation: generations[slot] }, value)
        })
    }

    /// All of them, by slot.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut T)> {
        let generations = &self.generations;
        self.slots.iter_mut().map(|(slot, value)| {
            (ConnId { slot: slot as u32, generation: generations[slot] }, value)
        })
    }
}

impl<T> Default for ConnSlab<T> {
    fn default() -> ConnSlab<T> {
        ConnSlab::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_tenant_and_never_the_next() {
        let mut keys = ConnSlab::new();
        let old = keys.insert("old");
        assert_eq!(keys.remove(old), Some("old"));
        let next = keys.next_id();
        let new = keys.insert("new");
        assert_eq!(new, next);
        assert_eq!(new.slot(), old.slot(), "slots are used again");
        assert!(keys.get(old).is_none() && keys.remove(old).is_none());
        assert_eq!(keys.get_mut(new), Some(&mut "new"));
        assert_eq!((old.to_string(), new.to_string()), ("0.0".into(), "0.1".into()));
    }

    #[test]
    fn generations_wrap_at_24_bits() {
        let mut keys = ConnSlab::new();
        let id = keys.insert(());
        keys.generations[0] = GENERATIONS - 1;
        assert!(keys.get(id).is_none());
        assert!(keys.remove(ConnId::new(0, GENERATIONS - 1)).is_some());
        assert_eq!(keys.insert(()).generation(), 0);
    }

    #[test]
    fn a_key_of_nowhere_finds_nobody() {
        let keys: ConnSlab<()> = ConnSlab::new();
        assert!(keys.get(ConnId::new(7, 0)).is_none());
    }
}
