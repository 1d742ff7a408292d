//! The lab: clusters out of network namespaces, and what tests need in them.
