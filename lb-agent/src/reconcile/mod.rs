//! From what the maps hold to what they ought to hold, in steps that are each safe to stop at.

mod arena;
mod plan;
mod programmed;
mod reconciler;
mod steps;
mod tables;

pub use self::{
    arena::Allocator,
    plan::{Plan, plan},
    programmed::Programmed,
    reconciler::{Outcome, Reconciler},
    steps::Op,
    tables::NewTable,
};
