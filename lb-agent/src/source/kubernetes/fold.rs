//! Folds the events of one watch into the objects that there are.

use std::{
    collections::{BTreeMap, btree_map},
    mem::{replace, take},
    sync::Arc,
};

use kube::runtime::watcher::Event;

use super::watched::Watched;
use crate::{
    model::ObjectName,
    source::{
        Rejection,
        objects::{Fields, Metadata, Object, Shared},
    },
};

/// The objects of one kind, converted; nothing else of them is kept.
pub(super) struct Fold<O: Object> {
    objects: BTreeMap<ObjectName, Entry<O::Model>>,
    /// What is wrong with those in which something is.
    rejections: BTreeMap<ObjectName, Vec<Rejection>>,
    /// Texts that many of them have.
    shared: Shared,
    /// Counts the lists that were begun.
    generation: u64,
    synced: bool,
}

struct Entry<M> {
    /// List in which, or after which, the object was seen last.
    generation: u64,
    /// `None` if it is not for us.
    model: Option<Arc<M>>,
}

/// What an event has changed.
#[derive(Debug)]
pub(super) struct Changed<M> {
    pub(super) name: ObjectName,
    /// What the object said before; `None` if there was none for us.
    pub(super) before: Option<Arc<M>>,
    /// What it says now.
    pub(super) now: Option<Arc<M>>,
}

// Not derived: a derive would ask for `O::Model: Default`.
impl<O: Object> Default for Fold<O> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            rejections: BTreeMap::new(),
            shared: Shared::default(),
            generation: 0,
            synced: false,
        }
    }
}

impl<O: Object> Fold<O> {
    /// Takes an event, and says what is different now: what is equal keeps its pointer.
    ///
    /// What was deleted while the watch was broken is known only when a new list is complete:
    /// what was not in it is gone.
    pub(super) fn apply<F>(&mut self, event: Event<Watched<O, F>>) -> Vec<Changed<O::Model>> {
        match event {
            Event::Init => {
                self.generation += 1;
                Vec::new()
            }
            Event::InitApply(watched) | Event::Apply(watched) => {
                self.put(&watched.object).into_iter().collect()
            }
            Event::Delete(watched) => self.remove(name(&watched.object)).into_iter().collect(),
            Event::InitDone => {
                self.synced = true;
                let objects = self.objects.iter();
                let gone = objects.filter(|(_, entry)| entry.generation != self.generation);
                let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
                gone.into_iter()
                    .filter_map(|name| self.remove(name))
                    .collect()
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
        self.rejections.values().flatten()
    }

    fn put(&mut self, object: &O) -> Option<Changed<O::Model>> {
        let name = name(object);
        let mut fields = Fields::new(O::KIND, name.clone()).sharing(take(&mut self.shared));
        let model = object.convert(&mut fields).map(Arc::new);
        let (rejections, shared) = fields.into_parts();
        self.shared = shared;
        if rejections.is_empty() {
            self.rejections.remove(&name);
        } else {
            self.rejections.insert(name.clone(), rejections);
        }
        let generation = self.generation;
        let entry = match self.objects.entry(name) {
            btree_map::Entry::Occupied(entry) if entry.get().model == model => {
                entry.into_mut().generation = generation;
                return None;
            }
            entry => entry,
        };
        let name = entry.key().clone();
        let entry = entry.or_insert(Entry {
            generation,
            model: None,
        });
        entry.generation = generation;
        let before = replace(&mut entry.model, model.clone());
        Some(Changed {
            name,
            before,
            now: model,
        })
    }

    fn remove(&mut self, name: ObjectName) -> Option<Changed<O::Model>> {
        self.rejections.remove(&name);
        let before = self.objects.remove(&name)?.model;
        Some(Changed {
            name,
            before,
            now: None,
        })
    }
}

fn name<O: Object>(object: &O) -> ObjectName {
    let metadata = object.metadata().valid();
    metadata.map_or_else(|| Metadata::default().object_name(), Metadata::object_name)
}

#[cfg(test)]
mod tests;
