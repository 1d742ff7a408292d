//! Packets that are not plain, and paths that not every packet fits: through every walk.

use lb_tests::lab::{Place as _, Request, Site};
use lb_tests::tool::Reply;

mod errors;
mod fragments;
mod headers;
mod large;
mod mtu;
mod trace;
mod vlan;
mod walk;

/// Sends one request, which must be answered.
#[track_caller]
fn ask(from: &Site, request: &Request, what: &str) -> Reply {
    let outcome = from.start(request).expect("a client").next();
    match outcome.expect("an outcome") {
        Ok(reply) => {
            assert_eq!(
                reply.peer, request.to,
                "{what}: answered from what was dialled"
            );
            reply
        }
        Err(error) => panic!("{what}: {request:?} from {}: {error:#}", from.name()),
    }
}
