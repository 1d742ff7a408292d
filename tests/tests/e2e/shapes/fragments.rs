//! Datagrams in fragments.

use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::lab::{Place as _, Request};
use lb_tests::tool::{Order, Protocol, Shape};

use super::ask;
use super::walk::{Walked, Who, grounds};

const DATAGRAM: usize = 9000;

fn request(shape: Shape, size: usize, to: SocketAddr) -> Request {
    Request {
        shape,
        size,
        ..Request::new(Protocol::Udp, to)
    }
}

/// A large datagram, cut by the client's kernel, and in order and reversed by hand.
fn send_large(walked: &Walked<'_>, to: SocketAddr, what: &str) {
    // Where the path has a bottleneck, the first ones find out.
    let plain = Request {
        count: 3,
        timeout: Duration::from_millis(700),
        ..request(Shape::Plain, DATAGRAM, to)
    };
    let outcomes: Vec<_> = walked.client().start(&plain).expect("a client").collect();
    let last = outcomes.last().expect("an outcome");
    assert!(last.is_ok(), "{what}, {to}: {outcomes:?}");
    // What a node sends past its sockets is not translated.
    if walked.who != Who::Node {
        for order in [Order::InOrder, Order::Reversed] {
            let shape = Shape::Fragments(order);
            ask(walked.client(), &request(shape, DATAGRAM, to), what);
        }
    }
}

#[test]
fn nine_thousand_byte_datagrams_through_every_walk() {
    for ground in grounds() {
        let mut lab = ground.build();
        for answers in [Shape::Plain, Shape::Fragments(Order::Reversed)] {
            lab.scene.answer_in(answers);
            for walked in lab.walks() {
                let what = format!("{}, answers {answers}", walked.name);
                for to in walked.dialled() {
                    send_large(&walked, to, &what);
                }
            }
        }
    }
}

/// Whoever says two things of the same bytes is not believed (RFC 5722).
#[track_caller]
fn overlapping_is_not_answered(walked: &Walked<'_>, to: SocketAddr) {
    let shape = Shape::Fragments(Order::Overlapping);
    let overlapping = Request {
        timeout: Duration::from_millis(300),
        ..request(shape, DATAGRAM, to)
    };
    let outcome = walked
        .client()
        .start(&overlapping)
        .expect("a client")
        .next();
    let outcome = outcome.expect("an outcome");
    assert!(outcome.is_err(), "{}, {to}: {outcome:?}", walked.name);
}

#[test]
fn fragments_out_of_order() {
    for ground in grounds() {
        let lab = ground.build();
        for walked in lab.walks().filter(|walked| walked.who != Who::Node) {
            for to in walked.dialled() {
                for order in Order::INTACT {
                    for size in [2000, 3500, DATAGRAM] {
                        let request = request(Shape::Fragments(order), size, to);
                        ask(walked.client(), &request, &walked.name);
                    }
                }
                overlapping_is_not_answered(&walked, to);
                let reversed = Shape::Fragments(Order::Reversed);
                ask(
                    walked.client(),
                    &request(reversed, DATAGRAM, to),
                    &walked.name,
                );
            }
        }
    }
}
