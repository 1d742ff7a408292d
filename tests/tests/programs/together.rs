//! Two processors meet packets of one connection at once.

use std::{
    hint,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use lb_agent::dataplane::bpf::Known;
use lb_tests::programs::{
    Bench, Case, FLOWS_MAX, Frame, Kernel, Packet, Pod, Program, Service, Verdict, each_case,
};
use nix::sys::resource::{UsageWho, getrusage};

/// Connections of each kind: so many that all ways in which two programs overlap occur.
const CONNECTIONS: u16 = 2048;
/// Connections that there are at one time: fewer than there is room for.
const AT_ONCE: u16 = 128;
const _: () = assert!(CONNECTIONS.is_multiple_of(AT_ONCE) && (AT_ONCE as u32) < FLOWS_MAX);
/// So often they are tried again because another task was in between.
const ATTEMPTS: usize = 1000;
/// By how much one of the packets comes later: up to these turns of a loop.
const DELAYS: u16 = 64;

/// Where a connection is dialled, and what meets its packets.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// Meets what the client sends.
    there: Program,
    /// Meets what the backend sends.
    back: Program,
    passes: Verdict,
}

/// From outside to another node, and from a pod to another.
const WALKS: [Walk; 2] = [
    Walk {
        there: Program::Xdp,
        back: Program::Xdp,
        passes: Verdict::Out,
    },
    Walk {
        there: Program::PodIngress,
        back: Program::PodEgress,
        passes: Verdict::Next,
    },
];

/// One of many connections.
#[derive(Clone, Copy, Debug)]
struct Connection {
    walk: Walk,
    case: Case,
    client: SocketAddr,
    frontend: SocketAddr,
}

impl Connection {
    fn new(walk: Walk, case: Case, number: u16) -> Self {
        let port = 2000 + number;
        let (client, frontend) = match walk.there {
            Program::PodIngress => (case.pod_client(port), case.vip(1)),
            _ => (case.client(port), case.node_port(1)),
        };
        Self {
            walk,
            case,
            client,
            frontend,
        }
    }

    /// The ends that the backend sees.
    #[track_caller]
    fn opens(self, kernel: &mut Kernel) -> [SocketAddr; 2] {
        let packet = self.case.opening(self.client, self.frontend);
        self.run(kernel, self.walk.there, &packet)
    }

    /// The ends that the backend sees.
    #[track_caller]
    fn goes_on(self, kernel: &mut Kernel) -> [SocketAddr; 2] {
        let packet = self.case.following(self.client, self.frontend);
        self.run(kernel, self.walk.there, &packet)
    }

    /// The ends that the client sees.
    #[track_caller]
    fn is_answered(self, kernel: &mut Kernel, way: [SocketAddr; 2]) -> [SocketAddr; 2] {
        let packet = self.case.answer(way[1], way[0]);
        let ends = self.run(kernel, self.walk.back, &packet);
        assert_eq!(ends, [self.frontend, self.client]);
        ends
    }

    #[track_caller]
    fn run(self, kernel: &mut Kernel, program: Program, packet: &Packet) -> [SocketAddr; 2] {
        let bytes = packet.bytes();
        let verdict = kernel.run(program, Frame::of(&bytes)).expect("a run");
        assert_eq!(verdict, self.walk.passes, "{program:?} on {packet:?}");
        kernel.ends()
    }
}

/// Runs both at the same time, each these turns of a loop later. Nothing if one of them had to wait for another task in
/// the midst of it: what meets packets is a softirq, which no task interrupts.
fn at_once<T: Send>(
    delays: [u16; 2],
    one: impl FnOnce() -> T + Send,
    other: impl FnOnce() -> T,
) -> Option<[T; 2]> {
    let ready = AtomicUsize::new(0);
    let meet = |delay| {
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < 2 {
            hint::spin_loop();
        }
        for _ in 0..delay {
            hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            meet(delays[0]);
            uninterrupted(one)
        });
        meet(delays[1]);
        let other = uninterrupted(other);
        let one = one.join().expect("the other processor");
        Some([one?, other?])
    })
}

/// What comes of it, unless another task took the processor meanwhile.
fn uninterrupted<T>(run: impl FnOnce() -> T) -> Option<T> {
    let switches = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the thread's own usage");
        usage.involuntary_context_switches()
    };
    let before = switches();
    let result = run();
    (switches() == before).then_some(result)
}

/// Lets connections of every kind meet with what `meeting` does to them; it says whether they did.
fn each_connection(meeting: impl Fn(&mut [Kernel; 2], Connection, [u16; 2]) -> Option<()> + Sync) {
    each_case(|bench, case| {
        for walk in WALKS {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(2, 14)])]);
            let mut kernels = [kernel(bench), kernel(bench)];
            for first in (0..CONNECTIONS).step_by(AT_ONCE.into()) {
                let mut met = (0..ATTEMPTS).map(|_| {
                    let met = (first..first + AT_ONCE).try_for_each(|number| {
                        let connection = Connection::new(walk, case, number);
                        let mut delays = [number % DELAYS, 0];
                        delays.rotate_left(usize::from(number / DELAYS % 2));
                        meeting(&mut kernels, connection, delays)
                    });
                    if met.is_some() {
                        assert_eq!(bench.flows().len(), usize::from(AT_ONCE));
                    }
                    bench.forget_connections();
                    met
                });
                assert!(
                    met.any(|met| met.is_some()),
                    "other tasks were in between each time"
                );
            }
        }
    });
}

fn kernel(bench: &mut Bench) -> Kernel {
    bench.kernel().expect("the programs")
}

#[test]
fn first_packets_that_meet_become_one_connection() {
    each_connection(|[one, other], connection, delays| {
        let met = at_once(delays, || connection.opens(one), || connection.opens(other));
        let [first, second] = met?;
        assert_eq!(first, second, "{connection:?}");
        Some(())
    });
}

#[test]
fn packet_that_meets_the_one_that_confirms_its_connection_goes_the_same_way() {
    each_connection(|[one, other], connection, delays| {
        let way = connection.opens(one);
        connection.is_answered(one, way);
        let [first, second] = at_once(
            delays,
            || connection.goes_on(one),
            || connection.goes_on(other),
        )?;
        assert_eq!([first, second], [way, way], "{connection:?}");
        Some(())
    });
}

#[test]
fn answer_that_meets_the_packet_that_confirms_its_connection_reaches_the_client() {
    each_connection(|[one, other], connection, delays| {
        let way = connection.opens(one);
        let back = connection.is_answered(one, way);
        let [there, again] = at_once(
            delays,
            || connection.goes_on(one),
            || connection.is_answered(other, way),
        )?;
        assert_eq!([there, again], [way, back], "{connection:?}");
        Some(())
    });
}

/// Says that it is over, also when the test has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Makes anew what programs can know, again and again, until it `is_over`: as the agent does, after a time in which every
/// program has ended that ran before, which `runs` counts. Counts the `times`.
fn renew(known: &Known, runs: &AtomicUsize, times: &AtomicUsize, is_over: &AtomicBool) {
    loop {
        assert!(known.begin(), "nobody notes nothing");
        let before = runs.load(Ordering::Acquire);
        while runs.load(Ordering::Acquire) < before + 2 {
            if is_over.load(Ordering::Acquire) {
                return;
            }
            thread::yield_now();
        }
        known.finish().expect("find out what there is");
        times.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn no_connection_is_forgotten_while_what_can_be_known_is_made_anew() {
    each_case(|bench, case| {
        for walk in WALKS {
            bench.clear();
            bench.serve(&[Service::new(1, [Pod::on(2, 14)])]);
            let (known, mut kernel) = (bench.known(), kernel(bench));
            let (runs, times) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let is_over = AtomicBool::new(false);
            let counted = || runs.fetch_add(1, Ordering::AcqRel);
            thread::scope(|scope| {
                let _over = Over(&is_over);
                let renewing = scope.spawn(|| renew(&known, &runs, &times, &is_over));
                for first in (0..CONNECTIONS).step_by(AT_ONCE.into()) {
                    let all = first..first + AT_ONCE;
                    let all = all.map(|number| Connection::new(walk, case, number));
                    let mut ways = Vec::new();
                    for connection in all.clone() {
                        let way = connection.opens(&mut kernel);
                        connection.is_answered(&mut kernel, way);
                        // Confirmed, its record is another map's.
                        connection.goes_on(&mut kernel);
                        ways.push(way);
                        counted();
                    }
                    for (connection, way) in all.zip(ways) {
                        assert_eq!(connection.opens(&mut kernel), way, "{connection:?}");
                        counted();
                    }
                    assert_eq!(bench.flows().len(), usize::from(AT_ONCE), "none is doubled");
                    bench.forget_connections();
                    // Once for each lot at least. No program runs meanwhile.
                    let wanted = usize::from(first / AT_ONCE);
                    while times.load(Ordering::Acquire) <= wanted {
                        assert!(!renewing.is_finished(), "renewals have failed");
                        counted();
                        thread::yield_now();
                    }
                }
            });
        }
    });
}
