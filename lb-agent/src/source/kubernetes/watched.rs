//! Makes slim types watchable.

use std::{borrow::Cow, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

use crate::source::{
    lenient::Lenient,
    objects::{Metadata, Object},
};

/// A slim object `O` that stands for the API's own type `F`.
///
/// Deserializes from whatever stands in its place in a list: what is no object at all is an empty
/// one.
pub(super) struct Watched<O, F> {
    /// The object.
    pub(super) object: O,
    /// What the watch itself needs.
    metadata: ObjectMeta,
    full: PhantomData<fn() -> F>,
}

// Neither is derived: a derive would ask the same of `F`.
impl<O: Clone, F> Clone for Watched<O, F> {
    fn clone(&self) -> Self {
        Self {
            object: self.object.clone(),
            metadata: self.metadata.clone(),
            full: PhantomData,
        }
    }
}

impl<O: std::fmt::Debug, F> std::fmt::Debug for Watched<O, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.object.fmt(f)
    }
}

impl<'de, O: Object, F> Deserialize<'de> for Watched<O, F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Lenient::<O>::deserialize(deserializer)?;
        let object = match object {
            Lenient::Valid(object) => object,
            Lenient::Absent | Lenient::Invalid(_) => O::default(),
        };
        Ok(Self {
            metadata: object_meta(object.metadata()),
            object,
            full: PhantomData,
        })
    }
}

fn object_meta(metadata: &Lenient<Metadata>) -> ObjectMeta {
    let Some(metadata) = metadata.valid() else {
        return ObjectMeta::default();
    };
    ObjectMeta {
        name: metadata.name.valid().cloned(),
        namespace: metadata.namespace.valid().cloned(),
        resource_version: metadata.resource_version.valid().cloned(),
        uid: metadata.uid.valid().cloned(),
        ..ObjectMeta::default()
    }
}

impl<O, F: k8s_openapi::Resource> kube::Resource for Watched<O, F> {
    type DynamicType = ();
    type Scope = F::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        F::KIND.into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        F::GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        F::VERSION.into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        F::URL_PATH_SEGMENT.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
