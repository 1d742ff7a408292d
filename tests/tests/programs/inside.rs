//! A pod of the node dials a Service.

use lb_common::counter::Outcome::{NewFlow, Redirected, Replied, ToStack};
use lb_tests::programs::{Pod, Program, Service, Verdict, each_case};

/// A port in the range of SNAT.
const SNAT_PORT: u16 = 61_234;
const PORT: u16 = 40_000;

#[test]
fn backend_gets_the_packet_with_the_pods_address_wherever_it_is() {
    each_case(|bench, case| {
        bench.serve(&[
            Service::new(1, [Pod::on(1, 11)]),
            Service::new(2, [Pod::on(2, 13)]),
            Service::new(4, [Pod::on(4, 13)]),
            Service::new(5, [Pod::on(5, 13)]),
        ]);
        let client = case.pod_client(PORT);
        let services = [(1, 11), (2, 13), (4, 13), (5, 13)];
        for (node, pod) in services {
            let backend = case.backend(node, pod);
            let vip = case.vip(node);

            let first = case.opening(client, vip);
            let expected = first.clone().to(backend);
            bench.check(
                Program::PodIngress,
                &first,
                Verdict::Next,
                &expected,
                &[NewFlow, ToStack],
            );

            let reply = case.answer(backend, client);
            let expected = reply.clone().from(vip);
            bench.check(
                Program::PodEgress,
                &reply,
                Verdict::Next,
                &expected,
                &[Replied],
            );

            let next = case.following(client, vip);
            let expected = next.clone().to(backend);
            bench.check(
                Program::PodIngress,
                &next,
                Verdict::Next,
                &expected,
                &[ToStack],
            );
        }
    });
}

#[test]
fn reply_is_undone_at_the_clients_veth_only() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let client = case.pod_client(PORT);
        let first = case.opening(client, case.vip(1));
        bench.run_checked(
            Program::PodIngress,
            &first,
            Verdict::Next,
            &[NewFlow, ToStack],
        );
        let reply = case.answer(case.backend(1, 11), client);
        for program in [
            Program::Xdp,
            Program::WireIngress,
            Program::WireEgress,
            Program::Tunnel,
        ] {
            bench.check(program, &reply, Verdict::Next, &reply, &[]);
        }
    });
}

#[test]
fn s37_pod_that_serves_itself_talks_to_the_services_address() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let pod = (case.family.pod(1, 11), SNAT_PORT).into();
        let (vip, backend) = (case.vip(1), case.backend(1, 11));
        let source = (vip.ip(), SNAT_PORT).into();

        for counted in [&[NewFlow, Redirected][..], &[Redirected]] {
            let there = case.opening(pod, vip);
            let expected = there.clone().from(source).to(backend).bounced();
            bench.check(
                Program::PodIngress,
                &there,
                Verdict::Out,
                &expected,
                counted,
            );

            let back = case.answer(backend, source);
            let expected = back.clone().from(vip).to(pod).bounced();
            bench.check(
                Program::PodIngress,
                &back,
                Verdict::Out,
                &expected,
                &[Redirected],
            );
        }
    });
}

#[test]
fn pod_that_serves_itself_keeps_the_port_that_was_chosen_for_it() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(1, 11)])]);
        let pod = (case.family.pod(1, 11), PORT).into();
        let (vip, backend) = (case.vip(1), case.backend(1, 11));
        let there = case.opening(pod, vip);
        let run = bench.run_checked(
            Program::PodIngress,
            &there,
            Verdict::Out,
            &[NewFlow, Redirected],
        );
        let [source, _] = run.ends();
        assert!(bench.config().is_snat_port(source.port()), "{source}");
        let expected = there.clone().from(source).to(backend).bounced();
        assert_eq!(run.frame, expected.bytes());
        bench.check(
            Program::PodIngress,
            &there,
            Verdict::Out,
            &expected,
            &[Redirected],
        );

        let back = case.answer(backend, source);
        let expected = back.clone().from(vip).to(pod).bounced();
        bench.check(
            Program::PodIngress,
            &back,
            Verdict::Out,
            &expected,
            &[Redirected],
        );
    });
}

#[test]
fn node_port_is_served_where_the_pod_is_and_undone_there() {
    each_case(|bench, case| {
        bench.serve(&[Service::new(1, [Pod::on(2, 13)])]);
        let (client, node_port) = (case.pod_client(PORT), case.node_port(1));
        let backend = case.backend(2, 13);
        let first = case.opening(client, node_port);
        let expected = first.clone().to(backend);
        bench.check(
            Program::PodIngress,
            &first,
            Verdict::Next,
            &expected,
            &[NewFlow, ToStack],
        );
        let reply = case.answer(backend, client);
        let expected = reply.clone().from(node_port);
        bench.check(
            Program::PodEgress,
            &reply,
            Verdict::Next,
            &expected,
            &[Replied],
        );
    });
}
