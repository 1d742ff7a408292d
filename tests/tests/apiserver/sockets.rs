//! Where the server listens.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lb_tests::apiserver::ApiServer;

/// Any address of the loopback is ours.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 7, 7, 7));

#[tokio::test]
async fn a_server_with_two_sockets_is_known_at_both() {
    let server = ApiServer::builder()
        .tls()
        .known_as(&[OTHER])
        .start()
        .unwrap();
    let other = server
        .listen(TcpListener::bind((OTHER, 0)).unwrap())
        .unwrap();
    for address in [server.address(), other] {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig_at(address)).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let services: Api<Service> = Api::all(client);
        let list = services.list(&ListParams::default()).await.unwrap();
        assert_eq!(list.items.len(), 1);
    }
}
