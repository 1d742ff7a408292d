//! Names of objects.

use std::{fmt, ops::Deref, sync::Arc};

/// Namespace and name of an object. Many hold the same one: a copy costs next to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(Arc<Parts>);

/// The parts of an [`ObjectName`].
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Parts {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl ObjectName {
    /// The name of an object; the namespace is empty for objects of the whole cluster.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self(Arc::new(Parts {
            namespace: namespace.into(),
            name: name.into(),
        }))
    }
}

impl Deref for ObjectName {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
