//! The three kinds of links of a job, each led through proxies: to Kafka's brokers, to Cassandra's
//! nodes, and between its own processes.
//!
//! Servers tell clients where to go on to, so node N is set up to name 127.0.1.N to the job
//! (`TAPEFLOW_STACK_PROXIED`), and a proxy listens there. Each process of the job knows the
//! others under 127.0.1.1. The feed uses Kafka's other listener; the readers go through the proxies
//! as the job does, which inject no faults into them.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{runtime::Handle, sync::watch};

use crate::proxy::{self, Harm, Proxy, Rule};

/// Which of the job's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    Kafka,
    Cassandra,
    /// Between the job's processes.
    Cluster,
}

impl Link {
    pub(crate) const ALL: [Self; 3] = [Self::Kafka, Self::Cassandra, Self::Cluster];

    /// For the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "link to Kafka",
            Self::Cassandra => "link to Cassandra",
            Self::Cluster => "link between processes",
        }
    }
}

/// The rules of all links, and the proxies of those to servers.
pub(crate) struct Links {
    runtime: Handle,
    rules: [watch::Sender<Rule>; 3],
    servers: Vec<Proxy>,
}

impl Links {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            rules: std::array::from_fn(|_| watch::Sender::new(Rule::default())),
            servers: Vec::new(),
        }
    }

    /// A proxy at node `node`'s other address, with the same port as the server at `to`.
    ///
    /// # Errors
    /// It cannot listen.
    pub(crate) fn add_server(
        &mut self,
        link: Link,
        node: u8,
        to: SocketAddr,
    ) -> Result<(), String> {
        let proxy = self.proxy(link, node, to)?;
        self.servers.push(proxy);
        Ok(())
    }

    /// A proxy before a process of the job.
    ///
    /// # Errors
    /// It cannot listen.
    pub(crate) fn to_process(&self, port: u16) -> Result<Proxy, String> {
        self.proxy(
            Link::Cluster,
            1,
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        )
    }

    fn proxy(&self, link: Link, node: u8, to: SocketAddr) -> Result<Proxy, String> {
        let at = SocketAddr::from((beside(node), to.port()));
        proxy::listen(&self.runtime, at, to, self.rules[link as usize].subscribe())
            .map_err(|fault| format!("a proxy cannot listen at {at}: {fault}"))
    }

    /// From now on this is done to a link: to all of it, or to what one process has connected.
    pub(crate) fn harm(&self, link: Link, harm: Harm, of: Option<u32>) {
        self.rules[link as usize].send_modify(|rule| {
            *rule = Rule {
                harm: Some(harm),
                of,
                serial: rule.serial + 1,
            }
        });
    }

    /// Removes the fault. Connections that are half open stay so.
    pub(crate) fn mend(&self, link: Link) {
        self.rules[link as usize].send_modify(|rule| {
            *rule = Rule {
                harm: None,
                of: None,
                serial: rule.serial + 1,
            }
        });
    }
}

/// The address of a node's proxies.
pub(crate) fn beside(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, node)
}
