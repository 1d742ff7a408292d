//! Folds the events of one watch into the objects that there are.

use std::{collections::BTreeMap, sync::Arc};

use kube::runtime::watcher::Event;

use super::watched::Watched;
use crate::{
    model::ObjectName,
    source::{
        Rejection,
        objects::{Fields, Metadata, Object},
    },
};

/// The objects of one kind, converted; nothing else of them is kept.
pub(super) struct Fold<O: Object> {
    objects: BTreeMap<ObjectName, Entry<O::Model>>,
    /// Counts the lists that were begun.
    generation: u64,
    synced: bool,
}

struct Entry<M> {
    /// List in which, or after which, the object was seen last.
    generation: u64,
    /// `None` if it is not for us.
    model: Option<Arc<M>>,
    rejections: Vec<Rejection>,
}

// Not derived: a derive would ask for `O::Model: Default`.
impl<O: Object> Default for Fold<O> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            generation: 0,
            synced: false,
        }
    }
}

impl<O: Object> Fold<O> {
    /// Takes an event.
    ///
    /// What was deleted while the watch was broken is known only when a new list is complete:
    /// what was not in it is gone.
    pub(super) fn apply<F>(&mut self, event: Event<Watched<O, F>>) {
        match event {
            Event::Init => self.generation += 1,
            Event::InitApply(watched) | Event::Apply(watched) => self.put(&watched.object),
            Event::Delete(watched) => {
                self.objects.remove(&name(&watched.object));
            }
            Event::InitDone => {
                self.objects
                    .retain(|_, entry| entry.generation == self.generation);
                self.synced = true;
            }
        }
    }

    /// Whether there has been a whole list.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// What the objects say, by name.
    pub(super) fn models(&self) -> impl Iterator<Item = (&ObjectName, &Arc<O::Model>)> {
        let entries = self.objects.iter();
        entries.filter_map(|(name, entry)| Some((name, entry.model.as_ref()?)))
    }

    /// What is wrong with them.
    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.objects.values().flat_map(|entry| &entry.rejections)
    }

    fn put(&mut self, object: &O) {
        let name = name(object);
        let mut fields = Fields::new(O::KIND, name.clone());
        let model = object.convert(&mut fields).map(Arc::new);
        let entry = Entry {
            generation: self.generation,
            model,
            rejections: fields.into_rejections(),
        };
        self.objects.insert(name, entry);
    }
}

fn name<O: Object>(object: &O) -> ObjectName {
    let metadata = object.metadata().valid();
    metadata.map_or_else(|| Metadata::default().object_name(), Metadata::object_name)
}

#[cfg(test)]
mod tests;
