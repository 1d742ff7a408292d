//! Which Services have to do with something.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

use lb_common::{Addr, Vip};

use crate::model::ObjectName;

/// Services by what they share or dispute. Mostly there is one: what holds several has no room to
/// spare.
#[derive(Clone, Debug)]
pub(super) struct Index<K>(HashMap<K, Box<[ObjectName]>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Index<K> {
    /// The Services that have to do with `key`, in the order of their names.
    pub(super) fn of(&self, key: K) -> impl Iterator<Item = &ObjectName> {
        self.0.get(&key).into_iter().flatten()
    }

    /// The first of them, whose right it is.
    pub(super) fn first(&self, key: K) -> Option<&ObjectName> {
        self.of(key).next()
    }

    /// Notes that a Service has to do with `new`, and no longer with the rest of `old`. Returns
    /// what it newly has to do with, or no longer.
    pub(super) fn replace(&mut self, name: &ObjectName, old: &[K], new: &[K]) -> Vec<K> {
        let mut changed = Vec::new();
        for key in old.iter().filter(|key| !new.contains(key)) {
            self.remove(*key, name);
            changed.push(*key);
        }
        for key in new.iter().filter(|key| !old.contains(key)) {
            self.insert(*key, name);
            changed.push(*key);
        }
        changed
    }

    fn insert(&mut self, key: K, name: &ObjectName) {
        let names = self.0.entry(key).or_default();
        if let Err(place) = names.binary_search(name) {
            let mut more = std::mem::take(names).into_vec();
            more.insert(place, name.clone());
            *names = more.into();
        }
    }

    fn remove(&mut self, key: K, name: &ObjectName) {
        if let Entry::Occupied(mut entry) = self.0.entry(key) {
            let names = std::mem::take(entry.get_mut()).into_iter();
            let rest: Box<[_]> = names.filter(|known| known != name).collect();
            if rest.is_empty() {
                entry.remove();
            } else {
                *entry.get_mut() = rest;
            }
        }
    }
}

/// What Services say of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(HashMap<Addr, Box<[(ObjectName, Vip)]>>);

impl Notes {
    /// What is said of an address.
    pub(super) fn of(&self, addr: Addr) -> impl Iterator<Item = &Vip> {
        let notes = self.0.get(&addr).into_iter().flatten();
        notes.map(|(_, vip)| vip)
    }

    /// Takes note of what a Service says of an address now.
    pub(super) fn note(&mut self, addr: Addr, name: &ObjectName, vip: Option<Vip>) {
        let notes = self.0.entry(addr).or_default();
        let others = std::mem::take(notes).into_iter();
        let others = others.filter(|(known, _)| known != name);
        *notes = others.chain(vip.map(|vip| (name.clone(), vip))).collect();
        if notes.is_empty() {
            self.0.remove(&addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    #[test]
    fn the_first_by_name_has_the_right_whoever_came_first() {
        let mut index = Index::default();
        assert_eq!(index.replace(&name("b"), &[], &[1, 2]), [1, 2]);
        assert_eq!(index.first(1), Some(&name("b")));
        index.replace(&name("a"), &[], &[1]);
        assert_eq!(index.first(1), Some(&name("a")));
        assert_eq!(index.of(1).count(), 2);
    }

    #[test]
    fn what_stays_is_not_told() {
        let mut index = Index::default();
        index.replace(&name("a"), &[], &[1, 2]);
        let told = index.replace(&name("a"), &[1, 2], &[2, 3]);
        assert_eq!(told, [1, 3]);
        assert_eq!(index.first(1), None);
        assert_eq!(index.first(2), Some(&name("a")));
    }
}
