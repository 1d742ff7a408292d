//! What happens, step by step, as a file can hold it.

use std::fmt;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::services::Served;
use crate::programs::Program;

/// Services, and what happens to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// With what the programs are loaded.
    #[serde(default)]
    pub constants: Constants,
    /// Networks that cluster addresses are allocated from; empty if nobody knows.
    pub nets: Vec<IpNet>,
    /// What is served at first.
    pub services: Vec<Served>,
    /// What happens.
    pub steps: Vec<Step>,
}

/// Constants of the programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constants {
    /// The usual ones.
    #[default]
    Usual,
    /// Connections whose backend is gone are reset, SNAT has the uplink's addresses for itself, and
    /// pods are handed over within their bridge.
    Other,
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A packet comes to a program.
    Packet {
        /// Name of the program.
        program: String,
        /// The frame, in hexadecimal digits.
        #[serde(with = "hex")]
        frame: Vec<u8>,
        /// The device has summed it.
        #[serde(default)]
        summed: bool,
        /// It came in by the same device.
        #[serde(default)]
        returns: bool,
    },
    /// Something else is served.
    Serve(Vec<Served>),
    /// All records are lost, but not the pins.
    Evict,
    /// All connections are netfilter's, and have been from their beginning.
    Leave,
}

impl Episode {
    /// Reads it from a file's text.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).context("no episode")
    }

    /// The text of its file.
    ///
    /// # Errors
    ///
    /// Never, in fact.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Step {
    /// A packet.
    pub(super) fn packet(program: Program, frame: Vec<u8>) -> Self {
        Self::Packet {
            program: program.name().to_owned(),
            frame,
            summed: false,
            returns: false,
        }
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "constants: {:?}, networks: {:?}",
            self.constants, self.nets
        )?;
        for service in &self.services {
            writeln!(f, "{service:?}")?;
        }
        for step in &self.steps {
            match step {
                Step::Packet {
                    program,
                    frame,
                    summed,
                    returns,
                } => {
                    let digits = hex::digits(frame);
                    let summed = if *summed { ", summed" } else { "" };
                    let returns = if *returns { ", returns" } else { "" };
                    writeln!(
                        f,
                        "{program}{summed}{returns}: {digits}\n    {}",
                        describe(frame)
                    )?;
                }
                other => writeln!(f, "{other:?}")?,
            }
        }
        Ok(())
    }
}

/// What a frame says, to the reader.
pub(super) fn describe(frame: &[u8]) -> String {
    match etherparse::SlicedPacket::from_ethernet(frame) {
        Ok(sliced) => {
            let net = match &sliced.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    let header = ip.header();
                    format!(
                        "{} > {} ttl {}",
                        header.source_addr(),
                        header.destination_addr(),
                        header.ttl()
                    )
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    let header = ip.header();
                    format!(
                        "{} > {} ttl {}",
                        header.source_addr(),
                        header.destination_addr(),
                        header.hop_limit()
                    )
                }
                _ => "?".to_owned(),
            };
            let transport = match &sliced.transport {
                Some(etherparse::TransportSlice::Tcp(tcp)) => {
                    let flags = [
                        (tcp.syn(), "SYN"),
                        (tcp.ack(), "ACK"),
                        (tcp.fin(), "FIN"),
                        (tcp.rst(), "RST"),
                    ];
                    let flags = flags.into_iter().filter(|(set, _)| *set);
                    let flags: Vec<_> = flags.map(|(_, name)| name).collect();
                    let ports = (tcp.source_port(), tcp.destination_port());
                    format!("TCP {ports:?} {}", flags.join("+"))
                }
                Some(etherparse::TransportSlice::Udp(udp)) => {
                    format!("UDP {:?}", (udp.source_port(), udp.destination_port()))
                }
                Some(etherparse::TransportSlice::Icmpv4(icmp)) => format!("{:?}", icmp.icmp_type()),
                Some(etherparse::TransportSlice::Icmpv6(icmp)) => format!("{:?}", icmp.icmp_type()),
                _ => "without a known transport".to_owned(),
            };
            format!("{net} {transport}")
        }
        Err(error) => error.to_string(),
    }
}

/// Bytes as hexadecimal digits.
pub(super) mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in super::super) fn digits(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digits(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let byte = |at: usize| {
            let pair = digits.get(at..at + 2);
            let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            byte.ok_or_else(|| D::Error::custom("no hexadecimal digits"))
        };
        (0..digits.len()).step_by(2).map(byte).collect()
    }
}
