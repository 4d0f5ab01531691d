//! What is told? The nine parts, each of which fails where it does not come out as told.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use medbind_integration::certificate::{Authority, Spec};
use medbind_integration::client::{Answer, Ask, Client};
use medbind_integration::scenario::registry::serve;
use medbind_integration::tools::root;
use medbind_integration::wait::until;
use medbind_workshop::progress::{Progress, human};
use tokio::time::Instant;

use crate::edge::MAX_STALE;
use crate::story::{Device, LIMIT, Story, command_line, identity, medbind, output};

/// The device's pause between two requests, while a change is measured.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long the device waits for an answer before it takes a new connection.
const PATIENCE: Duration = Duration::from_millis(250);

impl Story {
    /// 1: two devices are provisioned.
    pub fn provisioned(&mut self) -> Result<()> {
        self.begin("Two devices are provisioned: key, certificate, label, claim secret");
        let (ca, out, secrets) = (
            self.path("device-ca"),
            self.path("devices"),
            self.path("secrets.csv"),
        );
        for name in ["SN-1", "SN-2"] {
            let provision = [
                "provision",
                "--ca",
                &ca,
                "--serial",
                name,
                "--class",
                "cgm",
                "--portal",
                "https://portal.example",
                "--out",
                &out,
                "--secrets",
                &secrets,
            ];
            command_line(&provision.join(" "));
            print_indented(&output(&mut medbind(&self.tools, &provision))?);
            let identity = identity(&self.folder.join("devices").join(name))?;
            let kept = fs::read_to_string(root().join(&secrets))?;
            let mut lines = kept.lines();
            let line = lines.find(|line| line.starts_with(&format!("acme:{name},")));
            let mut fields = line.context("no secret")?.split(',').skip(1);
            let code = fields.next().context("no code")?.to_owned();
            let secret = fields.next().context("no secret")?.to_owned();
            self.devices.push(Device {
                name,
                identity,
                code,
                secret,
            });
        }
        let enrol = self.path("devices/enrol.ndjson");
        let said = self.operate(&format!("enrol {enrol}"), &["enrol", &enrol])?;
        print_indented(&said);
        Ok(())
    }

    /// 2: no certificate, and a stranger's.
    pub async fn without_a_certificate(&self) -> Result<()> {
        self.begin("Who has no certificate, or a stranger's, is refused");
        let ask = Ask::post(self.device(0)?.readings(), r#"{"glucose": 98}"#);
        let nobody = self.client("edge", None)?;
        is_code(
            &self.show("without a certificate", &nobody, &ask).await?,
            401,
            "no_peer_certificate",
        )?;
        let stranger = Authority::new("acme device CA")?.issue(&Spec::device("SN-1"))?;
        anstream::println!(
            "  \x1b[34m→\x1b[0m {} {}   \x1b[2mwith a certificate for SN-1 of a CA that only has the same name\x1b[0m",
            ask.method,
            ask.path
        );
        match self.client("edge", Some(&stranger))?.send(&ask).await {
            Ok(answer) => bail!(
                "a stranger got {} instead of a failed handshake",
                answer.status
            ),
            Err(_) => {
                anstream::println!("  \x1b[31m←\x1b[0m \x1b[1mthe TLS handshake fails\x1b[0m");
            }
        }
        let accepting = self.client("open", Some(&stranger))?;
        let who = "the same, at a listener that leaves it to the guard (ACCEPT_UNTRUSTED)";
        is_code(
            &self.show(who, &accepting, &ask).await?,
            401,
            "unknown_issuer",
        )
    }

    /// 3: nobody has claimed it.
    pub async fn before_the_claim(&self) -> Result<()> {
        self.begin("The device sends a reading before anyone claimed it");
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let unclaimed = |answer: &Answer| answer.code().as_deref() == Some("device_unclaimed");
        everywhere(&client, &Ask::post(device.readings(), "{}"), unclaimed).await?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 98}"#);
        is_code(
            &self.show("SN-1's certificate", &client, &ask).await?,
            403,
            "device_unclaimed",
        )
    }

    /// Claims a device, and measures until it is served.
    async fn claim(&self, device: &Device, account: &str) -> Result<Duration> {
        let shown = format!(
            "claim --account {account} --code {} --secret {}",
            device.code, device.secret
        );
        command_line(&shown);
        let mut command = self.operator(&["claim", "--account", account, "--code", &device.code]);
        command.env("MEDBIND_CLAIM_SECRET", &device.secret);
        let client = self.client("edge", Some(&device.identity))?;
        self.first(
            &client,
            &Ask::post(device.readings(), "{}"),
            command,
            Answer::is_success,
        )
        .await
    }

    /// Runs the operator's command while the device goes on asking, and measures from the command's
    /// start to the first answer that fits.
    async fn first(
        &self,
        client: &Client,
        ask: &Ask,
        mut command: Command,
        fits: impl Fn(&Answer) -> bool + Copy,
    ) -> Result<Duration> {
        let start = Instant::now();
        let operating = tokio::task::spawn_blocking(move || output(&mut command));
        let mut connection = client.connect().await?;
        let looking = async {
            loop {
                match tokio::time::timeout(PATIENCE, connection.send(ask)).await {
                    Ok(Ok(answer)) if fits(&answer) => return anyhow::Ok(start.elapsed()),
                    Ok(Ok(_)) => {}
                    // Envoy ends a connection of HTTP/1.1 where it refuses a request with a body, and
                    // the guard cuts what is under way.
                    Ok(Err(_)) | Err(_) => connection = client.connect().await?,
                }
                tokio::time::sleep(BETWEEN).await;
            }
        };
        let time = tokio::time::timeout(LIMIT, looking)
            .await
            .context("the change is not in force")??;
        everywhere(client, ask, fits).await?;
        operating.await??;
        Ok(time)
    }

    /// 4: claimed, and served.
    pub async fn claimed(&self) -> Result<()> {
        self.begin("It is claimed for an account, with the code and the secret of its label");
        let device = self.device(0)?;
        let time = self.claim(device, "acc-1").await?;
        anstream::println!("    in force after \x1b[1m{}\x1b[0m", human(time));
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 98}"#);
        let answer = self.show("SN-1's certificate", &client, &ask).await?;
        has_tags(&answer, "acme:SN-1", "acc-1")
    }

    /// 5: what a device cannot say.
    pub async fn forged(&self) -> Result<()> {
        self.begin("What a device says of itself counts for nothing");
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask =
            Ask::post(device.readings(), "{}").header("x-medbind-account", "acc-of-someone-else");
        let answer = self
            .show("SN-1's certificate, and a forged tag", &client, &ask)
            .await?;
        has_tags(&answer, "acme:SN-1", "acc-1")?;
        let ask = Ask::post(self.device(1)?.readings(), "{}");
        let answer = self
            .show(
                "SN-1's certificate, and a path that names SN-2",
                &client,
                &ask,
            )
            .await?;
        is_code(&answer, 403, "not_permitted")
    }

    /// 6: renewed.
    pub async fn renewed(&mut self) -> Result<()> {
        self.begin("Its certificate is renewed: new key, new serial number, the same device");
        let before = self.device(0)?.identity.digest();
        let (ca, out) = (self.path("device-ca"), self.path("renewed"));
        let renew = [
            "provision",
            "--renew",
            "--ca",
            &ca,
            "--serial",
            "SN-1",
            "--out",
            &out,
            "--no-qr",
        ];
        command_line(&renew.join(" "));
        output(&mut medbind(&self.tools, &renew))?;
        let folder = self.folder.join("renewed/SN-1");
        let identity = identity(&folder)?;
        let after = identity.digest();
        ensure!(before != after, "the certificate is the old one");
        let first = |digest: &str| digest.chars().take(16).collect::<String>();
        anstream::println!(
            "    certificate {}... instead of {}...",
            first(&after),
            first(&before)
        );
        if let Some(device) = self.devices.first_mut() {
            device.identity = identity;
        }
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 101}"#);
        let answer = self.show("SN-1's new certificate", &client, &ask).await?;
        has_tags(&answer, "acme:SN-1", "acc-1")
    }

    /// 7: suspended, resumed, revoked.
    pub async fn suspended_and_revoked(&self) -> Result<()> {
        self.begin("It is suspended, resumed and revoked, while it goes on sending");
        let device = self.device(0)?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 99}"#);
        let steps = [
            ("suspend", Some("binding_suspended")),
            ("resume", None),
            ("revoke", Some("binding_revoked")),
        ];
        for (verb, code) in steps {
            command_line(&format!("{verb} acme:SN-1"));
            let command = self.operator(&[verb, "acme:SN-1"]);
            let fits = |answer: &Answer| match code {
                Some(_) => answer.code().as_deref() == code,
                None => answer.is_success(),
            };
            let time = self.first(&client, &ask, command, fits).await?;
            let what = if code.is_some() {
                "the first refusal"
            } else {
                "the first answer"
            };
            anstream::println!(
                "    from the command to {what}: \x1b[1m{}\x1b[0m",
                human(time)
            );
            let answer = self.show("SN-1's certificate", &client, &ask).await?;
            match code {
                Some(code) => is_code(&answer, 403, code)?,
                None => has_tags(&answer, "acme:SN-1", "acc-1")?,
            }
        }
        Ok(())
    }

    /// 8: the registry is killed.
    pub async fn registry_killed(&mut self) -> Result<()> {
        self.begin("The registry is killed");
        let device = self.device(1)?;
        self.claim(device, "acc-2").await?;
        let client = self.client("edge", Some(&device.identity))?;
        let ask = Ask::post(device.readings(), r#"{"glucose": 107}"#);
        let killed = Instant::now();
        if let Some(process) = self.registry.take() {
            anstream::println!(
                "  \x1b[33m$ kill -9 {}\x1b[0m   \x1b[2mthe registry\x1b[0m",
                process.id()
            );
            drop(process);
        }
        let device = self.device(1)?;
        let answer = self
            .show(
                "SN-2's certificate: a known device goes on being served",
                &client,
                &ask,
            )
            .await?;
        has_tags(&answer, "acme:SN-2", "acc-2")?;
        let waiting = Progress::start(&format!(
            "max_stale is {} here, 15 minutes as it is shipped",
            human(MAX_STALE)
        ));
        let stale = |answer: &Answer| answer.code().as_deref() == Some("bindings_stale");
        until("the bindings are stale", LIMIT + MAX_STALE, || async {
            client
                .send(&Ask::post(device.readings(), "{}"))
                .await
                .ok()
                .filter(stale)
        })
        .await?;
        drop(waiting);
        anstream::println!("    {} after the kill:", human(killed.elapsed()));
        let answer = self.show("SN-2's certificate", &client, &ask).await?;
        is_code(&answer, 503, "bindings_stale")?;
        if let Some(seconds) = answer.header("retry-after") {
            anstream::println!("      retry-after: {seconds}");
        }
        command_line("serve");
        let start = Instant::now();
        let data = self.folder.join("registry");
        let (registry, _) = serve(&self.tools.command, &data, self.address).await?;
        self.registry = Some(registry);
        let served = until("the device is served again", LIMIT * 2, || async {
            client.send(&ask).await.ok().filter(Answer::is_success)
        });
        served.await?;
        let time = start.elapsed();
        everywhere(&client, &ask, Answer::is_success).await?;
        anstream::println!("    served again after \x1b[1m{}\x1b[0m", human(time));
        let answer = self.show("SN-2's certificate", &client, &ask).await?;
        has_tags(&answer, "acme:SN-2", "acc-2")
    }

    /// 9: why?
    pub fn explained(&self) -> Result<()> {
        self.begin("Why was that refused?");
        let (guard, certificate) = (self.path("guard.json"), self.path("renewed/SN-1/cert.pem"));
        let path = self.device(0)?.readings();
        let explain = [
            "explain",
            "--guard",
            &guard,
            "--certificate",
            &certificate,
            "--method",
            "POST",
            "--path",
            &path,
        ];
        command_line(&explain.join(" "));
        let output = self.operator(&explain).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        print_indented(&said);
        ensure!(
            said.contains("binding_revoked"),
            "explain does not say what the device was told: binding_revoked"
        );
        ensure!(
            output.status.code() == Some(1),
            "explain ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// Waits until every worker of Envoy answers like this: Envoy gives each connection to one of them.
async fn everywhere(client: &Client, ask: &Ask, fits: impl Fn(&Answer) -> bool) -> Result<()> {
    const IN_A_ROW: usize = 12;
    until("every worker knows", LIMIT, || async {
        for _ in 0..IN_A_ROW {
            client.send(ask).await.ok().filter(&fits)?;
        }
        Some(())
    })
    .await?;
    Ok(())
}

fn print_indented(text: &str) {
    for line in text.trim_end().lines() {
        anstream::println!("    {line}");
    }
}

fn is_code(answer: &Answer, status: u16, code: &str) -> Result<()> {
    ensure!(
        answer.status == status && answer.code().as_deref() == Some(code),
        "this was to be {status} {code}, and is {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

fn has_tags(answer: &Answer, device: &str, account: &str) -> Result<()> {
    let saw = answer
        .saw()
        .with_context(|| format!("not served: {} {}", answer.status, answer.text()))?;
    let tags = [
        ("x-medbind-principal", "device"),
        ("x-medbind-device", device),
        ("x-medbind-account", account),
        ("x-medbind-class", "cgm"),
        ("x-medbind-epoch", "1"),
        ("x-medbind-traffic", "phi"),
    ];
    for (name, value) in tags {
        ensure!(
            saw.one(name) == Some(value),
            "the upstream saw {:?} as {name}",
            saw.all(name)
        );
    }
    Ok(())
}
