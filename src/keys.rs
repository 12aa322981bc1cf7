//! The ids of connections: a slot, and the generation of the slot.
//!
//! A completion may arrive when its connection has been removed and the slot is used again. The
//! generations differ then, so a late completion finds no connection instead of the wrong one.

use std::fmt;

use slab::Slab;

/// The id of a connection. Printed as `slot.generation`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    slot: u32,
    /// 24 bits, so that the id fits the `user_data` of an operation beside its kind.
    generation: u32,
}

const GENERATIONS: u32 = 1 << 24;

impl ConnId {
    /// The id of this slot in this generation, which is taken modulo 2²⁴.
    pub const fn new(slot: u32, generation: u32) -> ConnId {
        ConnId { slot, generation: generation % GENERATIONS }
    }

    /// Returns the slot: a small number that is used again.
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// Returns the generation: how often the slot was used before, modulo 2²⁴.
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

/// Number of a listener of its server, from 0, in the order in which they were added. The
/// connections of one listener form a broadcast group.
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

/// The number by which a selector reports a descriptor, and a recorder names its calls: the
/// caller's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub u64);

/// The owner of a descriptor or a call, which is packed into a [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner {
    /// A connection with this id.
    Conn(ConnId),
    /// A listener with this number.
    Listener(ListenerId),
    /// The signal that stops the loop.
    Shutdown,
    /// The input of the operator console.
    Console,
    /// A descriptor that the owner of the loop watches, by its number; [`MONITOR`] is that of a
    /// monitor in every loop.
    External(u32),
    /// The link between the parent and the child that serves this connection: only in a trace,
    /// where all processes use the same ids.
    Link(ConnId),
}

/// The number of the external descriptor of a [monitor](crate::status::ServerMonitor).
pub const MONITOR: u32 = 0;

impl Key {
    /// Returns the connection that it names, if it does.
    pub fn conn(self) -> Option<ConnId> {
        (self.0 < LINK).then(|| ConnId::new(self.0 as u32, (self.0 >> 32) as u32))
    }
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
            KeyOwner::External(number) => EXTERNAL | u64::from(number),
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

/// A slab of values by [`ConnId`].
#[derive(Debug)]
pub struct ConnSlab<T> {
    /// Each value with the generation of its slot, so that one look-up finds both.
    slots: Slab<(u32, T)>,
    /// The generation of each slot that was ever used: of its value, or of the next one.
    generations: Vec<u32>,
}

impl<T> ConnSlab<T> {
    /// Inserts a value and returns its id.
    pub fn insert(&mut self, value: T) -> ConnId {
        let id = self.next_id();
        let slot = self.slots.insert((id.generation, value));
        // Else a value had the slot before, or an id was skipped.
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        id
    }

    /// Returns the id that the next value gets.
    pub fn next_id(&self) -> ConnId {
        let slot = self.slots.vacant_key();
        ConnId::new(slot as u32, self.generations.get(slot).copied().unwrap_or(0))
    }

    /// Returns the id that the next value would get, and no value ever gets.
    pub fn skip_id(&mut self) -> ConnId {
        let id = self.next_id();
        match self.generations.get_mut(id.slot as usize) {
            Some(generation) => *generation = (id.generation + 1) % GENERATIONS,
            None => self.generations.push(1),
        }
        id
    }

    /// Removes a value. Its id finds nothing from now on.
    pub fn remove(&mut self, id: ConnId) -> Option<T> {
        self.get(id)?;
        self.generations[id.slot as usize] = (id.generation + 1) % GENERATIONS;
        Some(self.slots.remove(id.slot as usize).1)
    }

    /// Frees the memory behind the last value. No id changes.
    pub fn shrink(&mut self) {
        self.slots.shrink_to_fit();
    }

    /// Returns the value with this id, if it is there.
    pub fn get(&self, id: ConnId) -> Option<&T> {
        let (generation, value) = self.slots.get(id.slot as usize)?;
        (*generation == id.generation).then_some(value)
    }

    /// Returns the value with this id, if it is there, to change it.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(id.slot as usize)?;
        (*generation == id.generation).then_some(value)
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if there is no value.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Iterates over the values in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &T)> {
        self.slots.iter().map(|(slot, (of, value))| (ConnId::new(slot as u32, *of), value))
    }

    /// Iterates over the values in the order of their slots, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnId, &mut T)> {
        self.slots.iter_mut().map(|(slot, (of, value))| (ConnId::new(slot as u32, *of), value))
    }
}

impl<T> Default for ConnSlab<T> {
    fn default() -> ConnSlab<T> {
        ConnSlab { slots: Slab::new(), generations: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_finds_its_value_and_never_the_next() {
        let mut keys = ConnSlab::default();
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
    fn an_id_that_was_skipped_finds_nothing() {
        let mut keys = ConnSlab::default();
        let skipped = [keys.skip_id(), keys.skip_id()];
        let first = keys.insert("first");
        assert_eq!([skipped[0], skipped[1], first], [0, 1, 2].map(|of| ConnId::new(0, of)));
        keys.remove(first);
        assert_eq!(keys.skip_id(), ConnId::new(0, 3));
        let last = keys.insert("last");
        assert!(skipped.iter().all(|&id| keys.get(id).is_none()));
        assert_eq!(keys.get(last), Some(&"last"));
    }

    #[test]
    fn generations_wrap_at_24_bits() {
        let mut keys = ConnSlab::default();
        let id = keys.insert(());
        keys.remove(id);
        keys.generations[0] = GENERATIONS - 1;
        let last = keys.insert(());
        assert!(keys.get(id).is_none());
        assert_eq!(last, ConnId::new(0, GENERATIONS - 1));
        assert!(keys.remove(last).is_some());
        assert_eq!(keys.insert(()).generation(), 0);
    }

    #[test]
    fn an_unknown_id_finds_nothing() {
        let keys: ConnSlab<()> = ConnSlab::default();
        assert!(keys.get(ConnId::new(7, 0)).is_none());
    }
}
