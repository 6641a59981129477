//! What the index was asked lately, so that a hit need not ask the database again.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A part of a table, held in memory. A change is told to it twice: when it is made, and again when
/// it is written, because somebody may have read the old word from the table between the two.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    /// When there are so many, all are forgotten: what is asked for is soon known again.
    most: usize,
    inside: RwLock<Inside<K, V>>,
}

#[derive(Debug)]
struct Inside<K, V> {
    /// With how many changes are told and not written yet: until the last one is, the table is behind.
    known: HashMap<K, (V, usize)>,
    /// How often the table has changed, as far as it was told.
    changes: u64,
}

// === impl Memory ===

impl<K: Hash + Eq, V: Clone> Memory<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            inside: RwLock::new(Inside {
                known: HashMap::new(),
                changes: 0,
            }),
        }
    }

    /// What is known of `key`, or what `read` finds, which is known from then on. `None` where it
    /// cannot be read.
    pub(super) fn get_or_read<Q>(&self, key: &Q, read: impl FnOnce() -> Option<V>) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let before = {
            let inside = self.read();
            if let Some((known, _)) = inside.known.get(key) {
                return Some(known.clone());
            }
            inside.changes
        };
        let found = read()?;
        let mut inside = self.write();
        // What was read may have been the word before a change that was made meanwhile.
        if inside.changes == before {
            inside.keep(self.most, key.to_owned(), found.clone(), 0);
        }
        Some(found)
    }

    /// What is known of `key` without reading.
    pub(super) fn known<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let inside = self.read();
        inside.known.get(key).map(|(known, _)| known.clone())
    }

    /// The table is told this now.
    pub(super) fn set(&self, key: K, value: V) {
        let mut inside = self.write();
        inside.changes += 1;
        let unwritten = inside
            .known
            .get(&key)
            .map_or(0, |(_, unwritten)| *unwritten);
        inside.keep(self.most, key, value, unwritten + 1);
    }

    /// The table is told that all of these keys have this value now. Of those that nothing is known of,
    /// whoever reads the table has to know by himself until that is written.
    pub(super) fn set_all(&self, of: impl Fn(&K) -> bool, value: &V) {
        let mut inside = self.write();
        inside.changes += 1;
        for (key, (known, _)) in &mut inside.known {
            if of(key) {
                *known = value.clone();
            }
        }
    }

    /// What was told first of `key` will never be written. The table is behind for good, and what is
    /// known stays.
    pub(super) fn lost<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some((_, unwritten)) = self.write().known.get_mut(key) {
            *unwritten = unwritten.saturating_sub(1);
        }
    }

    /// The table has changed at `key`: what was told of it first is written.
    pub(super) fn forget<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut inside = self.write();
        inside.changes += 1;
        if let Some((_, unwritten @ 2..)) = inside.known.get_mut(key) {
            *unwritten -= 1;
            return;
        }
        inside.known.remove(key);
    }

    /// The table has changed in many places. Where it is told something that is not written yet, that
    /// counts.
    pub(super) fn forget_all(&self) {
        let mut inside = self.write();
        inside.changes += 1;
        inside.forget_written();
    }

    fn read(&self) -> RwLockReadGuard<'_, Inside<K, V>> {
        self.inside.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inside<K, V>> {
        self.inside.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inside ===

impl<K: Hash + Eq, V> Inside<K, V> {
    fn keep(&mut self, most: usize, key: K, value: V, unwritten: usize) {
        if self.known.len() >= most {
            self.forget_written();
        }
        if self.known.len() >= most {
            self.known.clear();
        }
        self.known.insert(key, (value, unwritten));
    }

    fn forget_written(&mut self) {
        self.known.retain(|_, (_, unwritten)| *unwritten > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_not_read_again_until_it_changes() {
        let memory = Memory::<String, u8>::new(9);
        let unread = || unreachable!("it is known");
        assert_eq!(memory.get_or_read("a", || Some(1)), Some(1));
        assert_eq!(memory.get_or_read("a", unread), Some(1));
        memory.set("a".into(), 2);
        assert_eq!(memory.get_or_read("a", unread), Some(2));
        memory.forget("a");
        assert_eq!(memory.get_or_read("a", || Some(3)), Some(3));
        memory.forget_all();
        assert_eq!(memory.get_or_read("a", || Some(4)), Some(4));
    }

    #[test]
    fn what_was_read_while_it_changed_is_not_kept() {
        let memory = Memory::<String, u8>::new(9);
        let old = memory.get_or_read("a", || {
            memory.set("a".into(), 2);
            Some(1)
        });
        assert_eq!(old, Some(1));
        assert_eq!(memory.get_or_read("a", || None), Some(2));
        let old = memory.get_or_read("b", || {
            memory.forget("b");
            Some(1)
        });
        assert_eq!(old, Some(1));
        assert_eq!(memory.get_or_read("b", || Some(2)), Some(2));
    }

    #[test]
    fn what_is_told_last_counts_though_something_older_was_just_written() {
        let memory = Memory::<String, u8>::new(9);
        memory.set("a".into(), 1);
        memory.set("a".into(), 2);
        memory.forget("a");
        assert_eq!(memory.get_or_read("a", || Some(1)), Some(2));
        memory.forget("a");
        assert_eq!(memory.get_or_read("a", || Some(3)), Some(3));
    }

    #[test]
    fn what_is_told_and_not_written_counts_whatever_else_was_written() {
        let memory = Memory::<String, u8>::new(3);
        memory.set("a".into(), 1);
        memory.forget_all();
        assert_eq!(memory.get_or_read("a", || Some(9)), Some(1));
        for other in ["b", "c", "d", "e"] {
            memory.get_or_read(other, || Some(0));
        }
        assert_eq!(memory.get_or_read("a", || Some(9)), Some(1));
        memory.set_all(|key| key == "a", &2);
        assert_eq!(memory.get_or_read("a", || Some(9)), Some(2));
        memory.forget("a");
        assert_eq!(memory.get_or_read("a", || Some(3)), Some(3));
    }

    #[test]
    fn what_could_not_be_written_counts_all_the_same() {
        let memory = Memory::<String, u8>::new(9);
        memory.set("a".into(), 1);
        memory.lost("a");
        assert_eq!(memory.get_or_read("a", || Some(9)), Some(1));
        memory.set("a".into(), 2);
        memory.forget("a");
        assert_eq!(memory.get_or_read("a", || Some(3)), Some(3));
    }

    #[test]
    fn what_cannot_be_read_is_asked_for_again() {
        let memory = Memory::<String, u8>::new(9);
        assert_eq!(memory.get_or_read("a", || None), None);
        assert_eq!(memory.get_or_read("a", || Some(1)), Some(1));
    }

    #[test]
    fn it_is_bounded() {
        let memory = Memory::<u32, u32>::new(100);
        for n in 0..1000 {
            memory.set(n, n);
        }
        assert!(memory.read().known.len() <= 100);
        assert_eq!(memory.get_or_read(&999, || None), Some(999));
    }
}
