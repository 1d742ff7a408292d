//! Headers with more, or less, than usual.

use lb_tests::lab::Request;
use lb_tests::tool::{Protocol, Shape};

use super::ask;
use super::walk::grounds;

#[test]
fn ip_options_and_extension_headers() {
    for ground in grounds() {
        let lab = ground.build();
        for walked in lab.walks() {
            for to in walked.dialled() {
                for shape in [Shape::Options, Shape::ManyOptions] {
                    for protocol in Protocol::ALL {
                        let request = Request {
                            shape,
                            size: 100,
                            ..Request::new(protocol, to)
                        };
                        ask(walked.client(), &request, &walked.name);
                    }
                }
            }
        }
    }
}

#[test]
fn udp_checksum_zero() {
    for ground in grounds() {
        let mut lab = ground.on(|cluster| cluster.host_tx_offload(false)).build();
        lab.scene.answer_in(Shape::Unchecked);
        for walked in lab.walks() {
            for to in walked.dialled() {
                let request = Request {
                    shape: Shape::Unchecked,
                    ..Request::new(Protocol::Udp, to)
                };
                // A new connection, and another.
                ask(walked.client(), &request, &walked.name);
                ask(walked.client(), &request, &walked.name);
            }
        }
    }
}
