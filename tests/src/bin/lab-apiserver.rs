//! A stand-in of an API server, for people and for the places of a lab: see
//! `lb_tests::apiserver`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use lb_tests::apiserver::faults::Chaos;
use lb_tests::apiserver::{ApiServer, Behaviour};
use tokio::signal::unix::{SignalKind, signal};

/// Serves the Kubernetes API out of memory, to kubectl and to lb-agent.
#[derive(Debug, Parser)]
#[command(name = "lab-apiserver")]
struct Options {
    /// Where to listen; port 0 is any that is free.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// Speak HTTP, not HTTPS.
    #[arg(long)]
    http: bool,

    /// Write the kubeconfig there, too.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Apply the objects of these files first.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Leave EndpointSlices to whoever writes them.
    #[arg(long)]
    no_slices: bool,

    /// Milliseconds after which a deleted pod that runs on a node is gone.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pod_removal: u64,

    /// Let things go wrong by chance, out of this seed.
    #[arg(long, value_name = "SEED")]
    chaos: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-apiserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(options: &Options) -> Result<()> {
    let mut builder = ApiServer::builder()
        .address(options.listen)
        .behaviour(Behaviour {
            pod_removal: Some(Duration::from_millis(options.pod_removal)),
            ..Behaviour::default()
        });
    if !options.http {
        builder = builder.tls();
    }
    if options.no_slices {
        builder = builder.without_slices();
    }
    let server = builder.start()?;
    for path in &options.files {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        server
            .apply_yaml(&text)
            .with_context(|| format!("apply {}", path.display()))?;
    }
    let mut kubeconfig = server.kubeconfig_path();
    if let Some(path) = &options.kubeconfig {
        fs::write(path, server.kubeconfig())
            .with_context(|| format!("write {}", path.display()))?;
        kubeconfig.clone_from(path);
    }
    if let Some(seed) = options.chaos {
        server.faults().unleash(Chaos::new(seed).limit(u64::MAX));
    }
    println!("# {}", server.url());
    println!("export KUBECONFIG={}", kubeconfig.display());
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(())
}
