//! Flags of what the agent answers to others. They have kube-proxy's names.

use std::net::{IpAddr, SocketAddr};

use clap::{ArgAction, Args};

use crate::agent::MonitorOptions;

/// kube-proxy's port of health.
const HEALTHZ_PORT: u16 = 10256;
/// kube-proxy's port of metrics.
const METRICS_PORT: u16 = 10249;

/// Flags of what is answered to others.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Answer /healthz, /livez and /readyz here; an unspecified address is those of both families.
    /// Nowhere if it is empty, or off.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256", value_parser = healthz)]
    healthz_bind_address: Bind,

    /// Answer /metrics and /proxyMode here. Nowhere if it is empty, or off.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249", value_parser = metrics)]
    metrics_bind_address: Bind,

    /// End if one of these addresses is taken [default: try again until it is free].
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_value_t = false, default_missing_value = "true",
          hide_default_value = true)]
    bind_address_hard_fail: bool,

    /// Have metrics under the names of kube-proxy, too.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_value_t = true, default_missing_value = "true")]
    kube_proxy_metrics_compat: bool,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bind {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl ServeArgs {
    /// What the flags ask for.
    pub(super) fn options(self) -> MonitorOptions {
        MonitorOptions {
            healthz: self.healthz_bind_address.addr(),
            metrics: self.metrics_bind_address.addr(),
            hard_fail: self.bind_address_hard_fail,
            kube_proxy_metrics: self.kube_proxy_metrics_compat,
        }
    }
}

impl Bind {
    fn addr(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(addr) => Some(addr),
        }
    }
}

fn healthz(text: &str) -> Result<Bind, String> {
    bind(text, HEALTHZ_PORT)
}

fn metrics(text: &str) -> Result<Bind, String> {
    bind(text, METRICS_PORT)
}

fn bind(text: &str, port: u16) -> Result<Bind, String> {
    if text.is_empty() || text == "off" {
        return Ok(Bind::Off);
    }
    let ip = text.parse::<IpAddr>().ok();
    let addr = ip.map(|ip| SocketAddr::new(ip, port));
    addr.or_else(|| text.parse().ok())
        .map(Bind::At)
        .ok_or_else(|| "not an IP address, with or without a port".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn options(flags: &[&str]) -> MonitorOptions {
        let line = ["lb-agent"].iter().chain(flags);
        Line::try_parse_from(line).unwrap().serve.options()
    }

    #[test]
    fn s55_s56_the_defaults_are_those_of_kube_proxy() {
        let expected = MonitorOptions {
            healthz: Some(([0, 0, 0, 0], 10256).into()),
            metrics: Some(([127, 0, 0, 1], 10249).into()),
            hard_fail: false,
            kube_proxy_metrics: true,
        };
        assert_eq!(options(&[]), expected);
    }

    #[test]
    fn addresses_may_lack_a_port_and_be_turned_off() {
        for off in ["", "off"] {
            let flag = format!("--healthz-bind-address={off}");
            assert_eq!(options(&[&flag]).healthz, None);
        }
        let metrics = |addr| options(&["--metrics-bind-address", addr]).metrics;
        assert_eq!(metrics("::1"), Some("[::1]:10249".parse().unwrap()));
        assert_eq!(metrics("[::1]:7"), Some("[::1]:7".parse().unwrap()));
        let line = ["lb-agent", "--metrics-bind-address", "here"];
        assert!(Line::try_parse_from(line).is_err());
    }

    #[test]
    fn switches_may_have_a_value() {
        assert!(options(&["--bind-address-hard-fail"]).hard_fail);
        assert!(!options(&["--bind-address-hard-fail=false"]).hard_fail);
        assert!(!options(&["--kube-proxy-metrics-compat=false"]).kube_proxy_metrics);
    }
}
