//! Texts that many objects have alike, kept once.

use std::{collections::HashSet, sync::Arc};

use crate::model::Names;

/// As many as this are not looked through for what nobody has any more.
const FEW: usize = 1024;

/// Names of nodes and zones that objects share.
#[derive(Debug, Default)]
pub struct Shared {
    texts: HashSet<Arc<str>>,
    sets: HashSet<Names>,
    /// So many there may be before it is looked what nobody has any more.
    most: usize,
}

impl Shared {
    /// The one copy of a text.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        self.make_room();
        let text = Arc::<str>::from(text);
        self.texts.insert(text.clone());
        text
    }

    /// The one copy of a set.
    pub(super) fn set(&mut self, names: Names) -> Names {
        if let Some(known) = self.sets.get(&names) {
            return known.clone();
        }
        self.make_room();
        self.sets.insert(names.clone());
        names
    }

    /// Forgets what nobody has any more, if that may be much.
    fn make_room(&mut self) {
        if self.texts.len() + self.sets.len() < self.most.max(FEW) {
            return;
        }
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.sets.retain(|set| !set.is_alone());
        self.most = 2 * (self.texts.len() + self.sets.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let mut shared = Shared::default();
        let (one, other) = (shared.text("node1"), shared.text("node1"));
        assert!(Arc::ptr_eq(&one, &other));
        assert_ne!(shared.text("node2"), one);
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let mut shared = Shared::default();
        let kept = shared.text("kept");
        let set = shared.set(["a"].into_iter().collect());
        for number in 0..10 * FEW {
            shared.text(&number.to_string());
        }
        assert!(shared.texts.len() <= FEW);
        assert!(Arc::ptr_eq(&shared.text("kept"), &kept));
        assert!(shared.sets.contains(&set));
    }
}
