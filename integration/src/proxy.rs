//! A TCP proxy that can fall silent: as a firewall does that has forgotten its connections, or a
//! machine that has lost its power.

use std::future::pending;
use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A proxy before one address. Dropping it ends its connections.
pub struct Proxy {
    address: SocketAddr,
    silent: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = listener.local_addr()?;
        let silent = watch::Sender::new(());
        let taken = silent.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(relay(stream, to, taken.subscribe()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            silent,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes or goes on the connections that are open, and none of them ends.
    /// New ones are as before.
    pub fn fall_silent(&self) {
        self.silent.send_replace(());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(mut near: TcpStream, to: SocketAddr, mut silent: watch::Receiver<()>) {
    let Ok(mut far) = TcpStream::connect(to).await else {
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = silent.changed() => pending().await,
    }
}
