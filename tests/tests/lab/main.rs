//! The lab, on itself: who reaches whom, and what is left behind.

use std::fs;

use lb_tests::lab::{Cluster, Cni, Fabric, Netns};

mod cleanup;
mod load;
mod nodes;
mod paths;
mod requests;
mod shapes;

const PORT: u16 = 8000;

fn cluster(cni: Cni, fabric: Fabric) -> Cluster {
    Cluster::builder()
        .nodes(2)
        .cni(cni)
        .fabric(fabric)
        .build()
        .unwrap()
}

/// A kernel file that shows the network of whoever reads it.
fn network_file(netns: &Netns, path: &str) -> String {
    netns.run(|| fs::read_to_string(path)).unwrap().unwrap()
}
