//! A name server that can be silent.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A name server of loopback. Dropping it ends it.
pub struct NameServer {
    address: SocketAddr,
    answering: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl NameServer {
    /// Starts one that takes every question, and answers none.
    pub async fn start_silent() -> Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let address = socket.local_addr()?;
        let answering = watch::Sender::new(false);
        let told = answering.subscribe();
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = buffer.get(..length).and_then(answer);
                let answering = *told.borrow();
                if let (true, Some(answer)) = (answering, answer) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self {
            address,
            answering,
            serving,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on every name is that of this machine, by its IPv4 address.
    pub fn answer(&self) {
        self.answering.send_replace(true);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The answer to a question (RFC 1035, 4.1): `127.0.0.1` for an A record, nothing for another.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: [u8; 2] = [0, 1];
    let name = question
        .get(HEADER..)?
        .iter()
        .position(|octet| *octet == 0)?;
    let asked = question.get(HEADER..HEADER + name + 5)?;
    let is_a = asked.get(name + 1..name + 3)? == A;
    let mut answer = question.get(..2)?.to_vec();
    // An answer, recursion available, no error; one question, and one answer or none.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(asked);
    if is_a {
        // The name is the question's; class IN, a minute, four octets.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_a_record_is_this_machine_and_another_is_not_there() {
        let question = |kind: u8| {
            let mut octets = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            octets.extend(b"\x08registry\x04test\x00\x00");
            octets.extend([kind, 0, 1]);
            octets
        };
        let address = answer(&question(1)).unwrap();
        assert!(address.starts_with(&[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]));
        assert!(address.ends_with(&[127, 0, 0, 1]));
        let none = answer(&question(28)).unwrap();
        assert!(none.starts_with(&[0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 0]));
        assert!(answer(&question(1)[..20]).is_none());
    }
}
