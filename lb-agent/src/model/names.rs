//! Sets of names that many endpoints have alike.

use std::{collections::BTreeSet, sync::Arc};

/// A set of names: none takes no memory, and equal ones may share theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names(Option<Arc<BTreeSet<Box<str>>>>);

impl Names {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether `name` is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|names| names.contains(name))
    }

    /// Whether nobody else shares this memory.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|names| Arc::strong_count(names) == 1)
    }
}

impl<N: Into<Box<str>>> FromIterator<N> for Names {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        let names: BTreeSet<_> = names.into_iter().map(Into::into).collect();
        Self((!names.is_empty()).then(|| Arc::new(names)))
    }
}
