//! What becomes of datagrams while backends change.

use lb_tests::programs::{Pod, Service, each_case};

use crate::flows::{PORT, check_reply, check_to, each_udp, one};

/// A client's datagrams that have moved to another backend stay there while that one serves, even if
/// the first one comes back.
#[test]
fn s59_datagrams_do_not_go_back_to_a_backend_that_returns() {
    each_udp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        let (first, second) = (case.backend(1, 11), case.backend(1, 12));
        let datagram = case.following(client, vip);
        check_to(bench, &datagram, first, true);
        check_reply(bench, case, first, client, vip);

        bench.serve(&[one(12)]);
        check_to(bench, &datagram, second, true);
        check_reply(bench, case, second, client, vip);

        let returned = [Pod::on(1, 11), Pod::on(1, 12).terminating()];
        bench.serve(&[Service::new(1, returned)]);
        check_to(bench, &datagram, second, false);
    });
}

#[test]
fn datagrams_leave_a_backend_that_is_gone_and_connections_stay() {
    each_case(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        check_to(bench, &case.opening(client, vip), case.backend(1, 11), true);
        bench.serve(&[one(12)]);
        let next = case.following(client, vip);
        if case.is_tcp() {
            check_to(bench, &next, case.backend(1, 11), false);
        } else {
            check_to(bench, &next, case.backend(1, 12), true);
            check_to(bench, &next, case.backend(1, 12), false);
            check_reply(bench, case, case.backend(1, 12), client, vip);
        }
    });
}

/// What it has sent before, or sends while the client's next datagram is under way to another one, must
/// not come from an address that the client does not know.
#[test]
fn answers_of_a_backend_that_its_clients_datagrams_have_left_still_come_from_the_frontend() {
    each_udp(|bench, case| {
        bench.serve(&[one(11)]);
        let (client, vip) = (case.pod_client(PORT), case.vip(1));
        let datagram = case.following(client, vip);
        check_to(bench, &datagram, case.backend(1, 11), true);
        bench.serve(&[one(12)]);
        check_to(bench, &datagram, case.backend(1, 12), true);
        check_reply(bench, case, case.backend(1, 11), client, vip);
        check_reply(bench, case, case.backend(1, 12), client, vip);
        check_to(bench, &datagram, case.backend(1, 12), false);

        bench.serve(&[one(11)]);
        check_to(bench, &datagram, case.backend(1, 11), true);
        check_reply(bench, case, case.backend(1, 12), client, vip);
        check_reply(bench, case, case.backend(1, 11), client, vip);
    });
}
