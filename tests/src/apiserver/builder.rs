//! Starting a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::behaviour::Behaviour;
use super::controller::Controllers;
use super::seed;
use super::server::ApiServer;
use super::store::{Kind, Settings, Status, Store};
use super::tls::Identity;

/// A server that is to be started.
#[derive(Debug)]
pub struct Builder {
    address: SocketAddr,
    listener: Option<TcpListener>,
    has_tls: bool,
    names: Vec<IpAddr>,
    has_seed: bool,
    has_slices: bool,
    behaviour: Behaviour,
    settings: Settings,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            listener: None,
            has_tls: false,
            names: Vec::new(),
            has_seed: true,
            has_slices: true,
            behaviour: Behaviour::default(),
            settings: Settings::default(),
        }
    }
}

impl Builder {
    /// Listens to this address; port 0 is any that is free.
    #[must_use]
    pub fn address(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Listens to this socket, which may be of another network namespace.
    #[must_use]
    pub fn listener(self, listener: TcpListener) -> Self {
        Self {
            listener: Some(listener),
            ..self
        }
    }

    /// Speaks HTTPS, with a certificate from an authority that only its kubeconfig knows.
    #[must_use]
    pub fn tls(self) -> Self {
        Self {
            has_tls: true,
            ..self
        }
    }

    /// Is known by these addresses, too: its certificate names them.
    #[must_use]
    pub fn known_as(self, addresses: &[IpAddr]) -> Self {
        Self {
            names: addresses.to_vec(),
            ..self
        }
    }

    /// Starts without the objects that each cluster has: only with the namespace `default`.
    #[must_use]
    pub fn bare(self) -> Self {
        Self {
            has_seed: false,
            ..self
        }
    }

    /// Leaves EndpointSlices to whoever writes them.
    #[must_use]
    pub fn without_slices(self) -> Self {
        Self {
            has_slices: false,
            ..self
        }
    }

    /// Behaves like this.
    #[must_use]
    pub fn behaviour(self, behaviour: Behaviour) -> Self {
        Self { behaviour, ..self }
    }

    /// Remembers so many changes of each kind.
    #[must_use]
    pub fn history_limit(mut self, limit: usize) -> Self {
        self.settings.history_limit = limit;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(self) -> Result<ApiServer> {
        let listener = match self.listener {
            Some(listener) => listener,
            None => TcpListener::bind(self.address)
                .with_context(|| format!("listen to {}", self.address))?,
        };
        let address = listener.local_addr()?;
        let mut names = self.names;
        names.extend([address.ip(), Ipv4Addr::LOCALHOST.into()]);
        let identity = self.has_tls.then(|| Identity::generate(&names));
        let store = new_store(self.settings, self.has_seed, address);
        let store = store.context("make the first objects")?;
        let controllers = Controllers::new(self.has_slices);
        let server = ApiServer::new(
            address,
            identity.transpose()?,
            (store, controllers),
            self.behaviour,
        )?;
        server.listen(listener)?;
        Ok(server)
    }
}

fn new_store(settings: Settings, has_seed: bool, address: SocketAddr) -> Result<Store, Status> {
    let networks = settings.service_networks.iter();
    let networks: Vec<_> = networks.map(ToString::to_string).collect();
    let mut store = Store::empty(settings);
    if has_seed {
        seed::plant(&mut store, address, &networks)?;
    } else {
        let namespace = json!({"metadata": {"name": "default"}});
        store.create(Kind::Namespace, namespace, jiff::Timestamp::now())?;
    }
    Ok(store)
}
