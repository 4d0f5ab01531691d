//! HTTP/2 frame by frame (RFC 9113), for requests that no library would send.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use loona_hpack::Decoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::client::{Answer, Client};

const LIMIT: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types and flags of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Sends one request with these fields, as they are and in this order, on a connection of its own,
/// and reads the answer. Where the peer ends the stream or the connection, that is the error.
pub async fn ask<'a>(
    client: &Client,
    fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    body: &[u8],
) -> Result<Answer> {
    let mut stream = client.connect_tls(b"h2").await?;
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal that is not indexed, with a new name (RFC 7541, 6.2.2).
        block.push(0);
        text(&mut block, name.as_bytes());
        text(&mut block, value.as_bytes());
    }
    let mut octets = PREFACE.to_vec();
    frame(&mut octets, SETTINGS, 0, 0, b"");
    frame(&mut octets, HEADERS, END_HEADERS, 1, &block);
    frame(&mut octets, DATA, END_STREAM, 1, body);
    stream.write_all(&octets).await?;
    timeout(LIMIT, answer(&mut stream)).await?
}

/// A string that is not compressed (RFC 7541, 5.1 and 5.2).
fn text(block: &mut Vec<u8>, octets: &[u8]) {
    let mut length = octets.len();
    if length < 127 {
        block.extend(u8::try_from(length));
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.extend(u8::try_from(length % 128 + 128));
            length /= 128;
        }
        block.extend(u8::try_from(length));
    }
    block.extend_from_slice(octets);
}

fn frame(octets: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    octets.extend_from_slice(&length.to_be_bytes()[1..]);
    octets.extend_from_slice(&[kind, flags]);
    octets.extend_from_slice(&stream.to_be_bytes());
    octets.extend_from_slice(payload);
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> Result<Answer> {
    let mut decoder = Decoder::new();
    let mut answer = Answer::default();
    let mut block = Vec::new();
    let mut ends = false;
    loop {
        let mut head = [0; 9];
        stream
            .read_exact(&mut head)
            .await
            .context("the connection ended")?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut payload).await?;
        let has = |flag: u8| flags & flag != 0;
        match (kind, u32::from_be_bytes(id)) {
            (SETTINGS, _) if !has(ACK) => {
                let mut octets = Vec::new();
                frame(&mut octets, SETTINGS, ACK, 0, b"");
                stream.write_all(&octets).await?;
            }
            (GOAWAY, _) => bail!("the connection was ended: {payload:?}"),
            (RST_STREAM, 1) => bail!("the stream was reset: {payload:?}"),
            (HEADERS | CONTINUATION, 1) => {
                ends |= kind == HEADERS && has(END_STREAM);
                let plain = kind == CONTINUATION || !has(PADDED) && !has(PRIORITY);
                anyhow::ensure!(plain, "a padded answer is not read here");
                block.extend_from_slice(&payload);
                if has(END_HEADERS) {
                    read_fields(&mut decoder, &block, &mut answer)?;
                    block.clear();
                    if ends {
                        return Ok(answer);
                    }
                }
            }
            (DATA, 1) => {
                anyhow::ensure!(!has(PADDED), "a padded answer is not read here");
                answer.body.extend_from_slice(&payload);
                if has(END_STREAM) {
                    return Ok(answer);
                }
            }
            _ => {}
        }
    }
}

fn read_fields(decoder: &mut Decoder<'_>, block: &[u8], answer: &mut Answer) -> Result<()> {
    let fields = decoder
        .decode(block)
        .map_err(|error| anyhow::anyhow!("the answer's header cannot be read: {error:?}"))?;
    let has_begun = answer.status != 0;
    for (name, value) in fields {
        let name = String::from_utf8_lossy(&name).into_owned();
        let value = String::from_utf8_lossy(&value).into_owned();
        if has_begun {
            answer.trailers.push((name, value));
        } else if name == ":status" {
            answer.status = value.parse()?;
        } else {
            answer.headers.push((name, value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_has_its_length_in_front() {
        for length in [0, 1, 126, 127, 128, 254, 255, 300, 20_000] {
            let value = "v".repeat(length);
            let mut block = vec![0];
            text(&mut block, b"name");
            text(&mut block, value.as_bytes());
            let fields = Decoder::new().decode(&block).unwrap();
            assert_eq!(fields, [(b"name".to_vec(), value.into_bytes())]);
        }
    }
}
