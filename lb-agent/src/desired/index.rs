//! Which Services have to do with something.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use crate::model::ObjectName;

/// Services by what they share or dispute.
#[derive(Clone, Debug)]
pub(super) struct Index<K>(HashMap<K, BTreeSet<ObjectName>>);

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
    pub(super) fn replace(
        &mut self,
        name: &ObjectName,
        old: &BTreeSet<K>,
        new: &BTreeSet<K>,
    ) -> Vec<K>
    where
        K: Ord,
    {
        for key in old.difference(new) {
            if let Some(names) = self.0.get_mut(key) {
                names.remove(name);
                if names.is_empty() {
                    self.0.remove(key);
                }
            }
        }
        for key in new.difference(old) {
            self.0.entry(*key).or_default().insert(name.clone());
        }
        old.symmetric_difference(new).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    #[test]
    fn the_first_by_name_has_the_right_whoever_came_first() {
        let mut index = Index::default();
        assert_eq!(
            index.replace(&name("b"), &[].into(), &[1, 2].into()),
            [1, 2]
        );
        assert_eq!(index.first(1), Some(&name("b")));
        index.replace(&name("a"), &[].into(), &[1].into());
        assert_eq!(index.first(1), Some(&name("a")));
        assert_eq!(index.of(1).count(), 2);
    }

    #[test]
    fn what_stays_is_not_told() {
        let mut index = Index::default();
        index.replace(&name("a"), &[].into(), &[1, 2].into());
        let told = index.replace(&name("a"), &[1, 2].into(), &[2, 3].into());
        assert_eq!(told, [1, 3]);
        assert_eq!(index.first(1), None);
        assert_eq!(index.first(2), Some(&name("a")));
    }
}
