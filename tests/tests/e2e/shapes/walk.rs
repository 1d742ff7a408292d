//! The walks of DESIGN.md, section 3, as data.

use std::net::SocketAddr;

use lb_tests::lab::{Cluster, ClusterBuilder, Cni, Fabric, Narrow, Place as _, Pod, Site};

use lb_tests::scene::{EXTERNAL_IPS, Scene, Stage};

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// A pod of the first node that serves nothing.
    Pod,
    /// The backend itself.
    Itself,
    /// A process of the first node.
    Node,
    /// The client outside.
    Outside,
}

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    ClusterIp,
    /// The port of the node of this index.
    NodePort(usize),
    ExternalIp,
}

use Dialled::{ClusterIp, ExternalIp, NodePort};
use Who::{Itself, Node, Outside};

/// A way from a client through a Service to its backend, and back: number, client, frontend.
type Walk = (u8, Who, Dialled);

/// A kind of lab, and the walks through it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    pub(super) name: &'static str,
    pub(super) cluster: ClusterBuilder,
    /// Index of the only backend's node.
    pub(super) backend: usize,
    pub(super) flags: &'static [&'static str],
    pub(super) walks: &'static [Walk],
    /// Where there is a hop with an MTU of 1280.
    pub(super) narrow: Option<Narrow>,
}

const TO_THIS_NODE: &[Walk] = &[
    (1, Who::Pod, ClusterIp),
    (3, Itself, ClusterIp),
    (5, Outside, NodePort(0)),
    (7, Outside, ExternalIp),
    (8, Who::Pod, NodePort(1)),
];
const TO_ANOTHER_NODE: &[Walk] = &[
    (2, Who::Pod, ClusterIp),
    (4, Node, ClusterIp),
    (6, Outside, NodePort(0)),
    (7, Outside, ExternalIp),
    (8, Who::Pod, NodePort(1)),
    (8, Who::Pod, ExternalIp),
];

/// All walks, in as few labs as possible.
pub(super) fn grounds() -> Vec<Ground> {
    let direct = Cluster::builder().nodes(2);
    let (routed, vxlan) = (direct.cni(Cni::Ptp), direct.fabric(Fabric::Vxlan));
    let ground = |name, cluster, backend, flags, walks| Ground {
        name,
        cluster,
        backend,
        flags,
        walks,
        narrow: None,
    };
    let without_xdp = &["--xdp", "off"];
    vec![
        ground("this node", direct, 0, &[], TO_THIS_NODE),
        ground("another node", direct, 1, &[], TO_ANOTHER_NODE),
        ground("this node, routed pods", routed, 0, &[], &TO_THIS_NODE[..2]),
        ground(
            "another node, routed pods",
            routed,
            1,
            &[],
            &TO_ANOTHER_NODE[..1],
        ),
        ground("another node, vxlan", vxlan, 1, &[], &TO_ANOTHER_NODE[..3]),
        ground(
            "this node, without XDP",
            direct,
            0,
            without_xdp,
            &TO_THIS_NODE[2..3],
        ),
        ground(
            "another node, without XDP",
            direct,
            1,
            without_xdp,
            &TO_ANOTHER_NODE[2..3],
        ),
    ]
}

impl Ground {
    /// The same with a narrow hop.
    pub(super) fn narrow(self, place: Narrow) -> Self {
        Self {
            narrow: Some(place),
            ..self
        }
    }

    /// The same in another lab.
    pub(super) fn on(self, change: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Self {
        let cluster = change(self.cluster);
        Self { cluster, ..self }
    }

    pub(super) fn build(self) -> Lab {
        let backends: &[usize] = if self.backend == 0 { &[0] } else { &[1] };
        let cluster = match self.narrow {
            Some(place) => self.cluster.narrow(place, NARROW),
            None => self.cluster,
        };
        let scene = Scene::new(Stage {
            cluster,
            backends,
            flags: self.flags,
        });
        let via = scene.cluster.node(0).addresses();
        let routes = EXTERNAL_IPS.iter().zip(via);
        let routes: Vec<_> = routes
            .map(|(vip, via)| format!("route add {vip} via {via}"))
            .collect();
        let router = scene.cluster.router();
        router.netns().ip(&routes).expect("routes to the addresses");
        let pod = scene.pod("client-pod", 0);
        let ground = self;
        Lab { pod, scene, ground }
    }
}

/// The MTU of a narrow hop.
pub(super) const NARROW: u32 = 1280;

/// A ground that can be walked on.
pub(super) struct Lab {
    // Fields drop in this order.
    pod: Pod,
    pub(super) scene: Scene,
    ground: Ground,
}

impl Lab {
    pub(super) fn walks(&self) -> impl Iterator<Item = Walked<'_>> {
        let walks = self.ground.walks.iter();
        walks.map(|(number, who, dialled)| Walked {
            name: format!(
                "walk {number}, {who:?} to {dialled:?} ({})",
                self.ground.name
            ),
            who: *who,
            dialled: *dialled,
            lab: self,
        })
    }

    /// Who answers.
    pub(super) fn backend(&self) -> &Site {
        self.scene.backends[0].site()
    }

    /// Forgets on all ends, and on the nodes, what has been learned of paths.
    pub(super) fn forget_paths(&self) {
        let nodes = self.scene.cluster.nodes().iter().map(|node| node.site());
        let ends = [
            self.scene.cluster.client().site(),
            self.pod.site(),
            self.backend(),
        ];
        for site in nodes.chain(ends) {
            site.forget_paths().expect("caches flushed");
        }
    }
}

/// One of the walks in a lab.
pub(super) struct Walked<'a> {
    pub(super) name: String,
    pub(super) who: Who,
    dialled: Dialled,
    pub(super) lab: &'a Lab,
}

impl Walked<'_> {
    /// Who dials.
    pub(super) fn client(&self) -> &Site {
        match self.who {
            Who::Pod => self.lab.pod.site(),
            Outside => self.lab.scene.cluster.client().site(),
            Node => self.lab.scene.cluster.node(0).site(),
            Itself => self.lab.backend(),
        }
    }

    /// What is dialled, in both families.
    pub(super) fn dialled(&self) -> [SocketAddr; 2] {
        match self.dialled {
            ClusterIp => Scene::cluster_ips(),
            NodePort(node) => self.lab.scene.node_ports(node),
            ExternalIp => Scene::external_ips(),
        }
    }

    /// Whether the walk leads over the narrow hop.
    pub(super) fn is_narrow(&self) -> bool {
        match self.lab.ground.narrow {
            None => false,
            Some(Narrow::Client) => self.who == Outside,
            Some(Narrow::Node(node)) => {
                self.dialled == NodePort(node) || self.lab.ground.backend == node
            }
        }
    }

    /// The MTU of the device by which the client's packets leave, if that of uplinks is `mtu`.
    pub(super) fn first_mtu(&self, mtu: u32) -> u32 {
        match self.who {
            Outside => mtu,
            Who::Pod | Itself | Node => self.lab.ground.cluster.fabric_of().mtu(mtu),
        }
    }

    /// The MTU of the path from the client on, if that of uplinks is `mtu`.
    pub(super) fn path_mtu(&self, mtu: u32) -> u32 {
        let fabric = self.lab.ground.cluster.fabric_of();
        let inside = match fabric {
            // What is in a tunnel may be cut, and is put together again.
            Fabric::Vxlan => fabric.mtu(mtu),
            Fabric::Direct if self.is_narrow() => NARROW,
            Fabric::Direct => mtu,
        };
        let is_narrow_at_once = self.lab.ground.narrow == Some(Narrow::Client);
        if self.who == Outside && is_narrow_at_once {
            NARROW
        } else {
            inside
        }
    }
}
