//! The endpoint slices of one Service.

use std::{collections::BTreeMap, ops::Index, sync::Arc};

use super::Slice;

/// The slices of a Service by their names, in the order of these.
///
/// Most Services have one slice: this is small where a map would have room for eleven. A copy
/// shares everything until either changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices(Arc<Vec<(Box<str>, Arc<Slice>)>>);

impl Slices {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The slice of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Slice>> {
        let place = self.place(name).ok()?;
        self.0.get(place).map(|(_, slice)| slice)
    }

    /// Adds a slice, in the place of one that had the name.
    pub fn insert(&mut self, name: impl Into<Box<str>>, slice: Arc<Slice>) {
        let name = name.into();
        let place = self.place(&name);
        let slices = Arc::make_mut(&mut self.0);
        match place {
            Ok(place) => {
                if let Some((_, old)) = slices.get_mut(place) {
                    *old = slice;
                }
            }
            Err(place) => {
                slices.reserve_exact(1);
                slices.insert(place, (name, slice));
            }
        }
    }

    /// Takes a slice away.
    pub fn remove(&mut self, name: &str) {
        if let Ok(place) = self.place(name) {
            Arc::make_mut(&mut self.0).remove(place);
        }
    }

    /// The slices with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Slice>)> {
        self.0.iter().map(|(name, slice)| (&**name, slice))
    }

    /// The slices.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Slice>> {
        self.0.iter().map(|(_, slice)| slice)
    }

    /// Where a name is, or would be.
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

impl Index<&str> for Slices {
    type Output = Arc<Slice>;

    /// # Panics
    ///
    /// If there is no such slice.
    fn index(&self, name: &str) -> &Arc<Slice> {
        self.get(name).expect("a slice of that name")
    }
}

impl<N: Into<Box<str>>> FromIterator<(N, Arc<Slice>)> for Slices {
    fn from_iter<I: IntoIterator<Item = (N, Arc<Slice>)>>(slices: I) -> Self {
        let by_name: BTreeMap<Box<str>, _> = slices
            .into_iter()
            .map(|(name, slice)| (name.into(), slice))
            .collect();
        Self(Arc::new(by_name.into_iter().collect()))
    }
}

impl<N: Into<Box<str>>, const LEN: usize> From<[(N, Arc<Slice>); LEN]> for Slices {
    fn from(slices: [(N, Arc<Slice>); LEN]) -> Self {
        slices.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(slices: &Slices) -> Vec<&str> {
        slices.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn slices_are_in_the_order_of_their_names_and_a_name_stands_once() {
        let mut slices = Slices::from([("c", Arc::default()), ("a", Arc::default())]);
        slices.insert("b", Arc::default());
        slices.insert("c", Arc::default());
        assert_eq!(names(&slices), ["a", "b", "c"]);
        slices.remove("b");
        slices.remove("z");
        assert_eq!(names(&slices), ["a", "c"]);
        assert!(slices.get("b").is_none());
    }

    #[test]
    fn copy_does_not_change_with_its_original() {
        let mut slices = Slices::from([("a", Arc::default())]);
        let copy = slices.clone();
        slices.remove("a");
        assert!(slices.is_empty());
        assert_eq!(names(&copy), ["a"]);
    }
}
