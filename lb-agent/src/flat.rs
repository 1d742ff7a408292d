//! Small sets and maps in one piece of memory: there are a hundred thousand of them, mostly with one
//! to ten elements, where a tree keeps room for eleven.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    ops::Index,
    slice, vec,
};

/// A set in order, which is made at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlatSet<T>(Box<[T]>);

impl<T> Default for FlatSet<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T: Ord> FlatSet<T> {
    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an element is there.
    #[must_use]
    pub fn contains(&self, element: &T) -> bool {
        self.0.binary_search(element).is_ok()
    }

    /// The elements, in order.
    pub fn iter(&self) -> slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The elements that `other` has not.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a T> {
        self.iter().filter(|element| !other.contains(element))
    }

    /// Takes an element away.
    pub fn remove(&mut self, element: &T) {
        let elements = std::mem::take(&mut self.0).into_iter();
        self.0 = elements.filter(|known| known != element).collect();
    }
}

impl<T: Ord> FromIterator<T> for FlatSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let sorted: BTreeSet<T> = elements.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

impl<T> IntoIterator for FlatSet<T> {
    type Item = T;
    type IntoIter = vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<'a, T> IntoIterator for &'a FlatSet<T> {
    type Item = &'a T;
    type IntoIter = slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A map in the order of its keys, which is made at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatMap<K, V>(Box<[(K, V)]>);

impl<K, V> Default for FlatMap<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: Ord, V> FlatMap<K, V> {
    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self
            .0
            .binary_search_by(|(known, _)| known.borrow().cmp(key));
        self.0.get(place.ok()?).map(|(_, value)| value)
    }

    /// Whether a key is there.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The elements, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for FlatMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(elements: I) -> Self {
        let sorted: BTreeMap<K, V> = elements.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

impl<K, V> IntoIterator for FlatMap<K, V> {
    type Item = (K, V);
    type IntoIter = vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_vec().into_iter()
    }
}

impl<K: Ord, V> Index<&K> for FlatMap<K, V> {
    type Output = V;

    /// # Panics
    ///
    /// If there is no such key.
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("an element with that key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_is_in_order_and_has_each_element_once() {
        let mut set: FlatSet<u32> = [3, 1, 2, 3].into_iter().collect();
        assert!(set.iter().eq(&[1, 2, 3]));
        assert!(set.contains(&2) && !set.contains(&4));
        let other = [1, 4].into_iter().collect();
        assert!(set.difference(&other).eq(&[2, 3]));
        set.remove(&2);
        set.remove(&7);
        assert_eq!(set, [1, 3].into_iter().collect());
    }

    #[test]
    fn of_two_values_of_a_key_the_later_one_counts() {
        let map: FlatMap<u32, &str> = [(2, "b"), (1, "a"), (2, "c")].into_iter().collect();
        assert!(map.iter().eq([(&1, &"a"), (&2, &"c")]));
        assert_eq!(map.get(&2), Some(&"c"));
        assert!(!map.contains_key(&3));
        assert_eq!(map[&1], "a");
    }
}
