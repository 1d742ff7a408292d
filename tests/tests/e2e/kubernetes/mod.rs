//! A cluster with an API server (the stand-in), as its users see it: they run kubectl, and clients
//! notice.

mod answers;
mod changes;
mod objects;
mod reports;
mod selectors;
mod stage;
mod user;
mod without;
