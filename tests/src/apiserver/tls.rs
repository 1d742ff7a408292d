//! A certificate authority of our own, and the server's certificate from it.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a server with TLS needs, and what its clients do.
pub(super) struct Identity {
    pub(super) acceptor: TlsAcceptor,
    /// The authority's certificate, as PEM.
    pub(super) authority: String,
}

impl Identity {
    /// Makes one for a server at these addresses.
    pub(super) fn generate(addresses: &[IpAddr]) -> Result<Self> {
        let key = KeyPair::generate().context("make the authority's key")?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "standin-ca");
        let certificate = authority.self_signed(&key).context("sign the authority")?;
        let issuer = Issuer::new(authority, key);

        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let names = names.iter().map(ToString::to_string);
        let all = names.chain(addresses.iter().map(IpAddr::to_string));
        let mut server = CertificateParams::new(all.collect::<Vec<_>>())?;
        server
            .distinguished_name
            .push(DnType::CommonName, "standin");
        let key = KeyPair::generate().context("make the server's key")?;
        let chain = vec![server.signed_by(&key, &issuer)?.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            authority: certificate.pem(),
        })
    }
}
