//! What does a request cost in Envoy, with medbind and with what one could take instead?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use medbind_integration::bootstrap::Bootstrap;
use medbind_integration::certificate::{San, Spec};
use medbind_integration::client::{Ask, Client};
use medbind_integration::envoy::Envoy;
use medbind_integration::scenario::fleet::ACCOUNT;
use medbind_integration::scenario::registry::Registry;
use medbind_integration::server;
use medbind_integration::site::EDGE;
use medbind_workshop::progress::Progress;
use serde::Serialize;

use crate::load::Load;
use crate::processor;
use crate::setting::{Setting, ready};
use crate::spread::Spread;
use crate::variant::{ANSWERED, PATH, Places, SHOWN, Variant, put};
use crate::yes::Yes;

/// Connections, each with one request under way.
const CONNECTIONS: u32 = 8;
/// Requests on each connection before anything counts: until V8 has compiled what runs often.
const WARM_UP: u32 = 2_000;
/// Requests on each connection in one round.
const BURST: u32 = 500;
/// How long the guard may take until it can decide.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The device's name in its certificate, as Envoy's own filters read it.
const PRINCIPAL: &str = "urn:dev:ops:32473-SN-BENCH";

/// Who answers?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The device service behind Envoy, over TLS, as it is shipped.
    Upstream,
    /// Envoy by itself: the least that a request can cost, so that the filter stands out most.
    Envoy,
}

impl Answer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Upstream, Self::Envoy];

    /// As the table names it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Upstream => "passed on to an upstream over TLS, as shipped",
            Self::Envoy => "answered by Envoy itself",
        }
    }

    const fn host(self) -> &'static str {
        match self {
            Self::Upstream => EDGE,
            Self::Envoy => ANSWERED,
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Requests of each round and variant.
    pub requests: u32,
    /// By who answers.
    pub costs: BTreeMap<Answer, Costs>,
}

/// What requests cost that are answered in the same way.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// Microseconds of processor time for each request.
    pub microseconds: BTreeMap<Variant, Spread>,
    /// Each variant against the empty SDK filter of the same round.
    pub against_empty: BTreeMap<Variant, Spread>,
    /// What each variant adds to no filter, against what `ext_authz` adds, in the same round.
    pub added_against_ext_authz: BTreeMap<Variant, Spread>,
    /// Microseconds for each request, round by round.
    pub rounds: Vec<BTreeMap<Variant, f64>>,
}

struct Contender {
    variant: Variant,
    envoy: Envoy,
    loads: Vec<(Answer, Load)>,
}

/// Measures `rounds` rounds. In each, every variant has its turn, and another one begins.
pub async fn measure(setting: &Setting, rounds: u32) -> Result<Cpu> {
    let mut registry = Registry::start(&setting.tools).await?;
    registry.hold_active("SN-BENCH").await?;
    let authority = Yes::start(None).await?;
    let mut tls = server::tls(
        &setting.site.upstream_identity()?,
        setting.site.infra_ca.der(),
    )?;
    // The only one that this server speaks.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let upstream = Yes::start(Some(tls)).await?;
    let mut contenders = Vec::new();
    {
        let progress = Progress::steps("starting an Envoy for each variant", 5);
        for variant in Variant::ALL {
            let bootstrap = setting.bootstrap(&registry, upstream.address())?;
            contenders.push(contender(setting, variant, bootstrap, authority.address()).await?);
            progress.step();
        }
    }
    let progress = Progress::steps("CPU per request", u64::from(rounds));
    let mut measured = BTreeMap::<Answer, Vec<_>>::new();
    for round in 0..rounds {
        contenders.rotate_left(1);
        let mut costs = BTreeMap::<Answer, BTreeMap<Variant, f64>>::new();
        for contender in &mut contenders {
            for (answer, cost) in contender.round().await? {
                costs
                    .entry(answer)
                    .or_default()
                    .insert(contender.variant, cost);
            }
        }
        for (answer, costs) in costs {
            measured.entry(answer).or_default().push(costs);
        }
        // Both ways round, so that nobody always comes after the same one.
        if round % 2 == 1 {
            contenders.reverse();
        }
        progress.step();
    }
    let costs = measured
        .into_iter()
        .map(|(answer, rounds)| Ok((answer, Costs::of(rounds)?)));
    Ok(Cpu {
        requests: BURST * CONNECTIONS,
        costs: costs.collect::<Result<_>>()?,
    })
}

async fn contender(
    setting: &Setting,
    variant: Variant,
    mut bootstrap: Bootstrap,
    authority: SocketAddr,
) -> Result<Contender> {
    let places = Places {
        empty: &setting.empty_module,
        yes: authority,
        principal: PRINCIPAL,
    };
    put(&mut bootstrap, variant, &places)?;
    let name = format!("{variant:?}");
    let mut envoy = setting.envoy(&name, &bootstrap, 1, "warning").await?;
    if variant == Variant::Medbind {
        ready(&mut envoy, READY_LIMIT).await?;
    }
    let identity = setting.site.device_ca.issue(&Spec {
        sans: vec![San::Uri(PRINCIPAL.to_owned())],
        ..Spec::device("SN-BENCH")
    })?;
    let client = setting
        .site
        .client(envoy.listener("edge")?, Some(&identity))?;
    is_what_it_says(&client, variant).await?;
    let connections = usize::try_from(CONNECTIONS)?;
    let mut loads = Vec::new();
    for answer in Answer::ALL {
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nhost: {}\r\nuser-agent: meter/2.1\r\naccept: */*\r\n\
             content-type: application/json\r\ncontent-length: 0\r\n\r\n",
            answer.host()
        );
        let mut load = Load::open(&client, connections, request.into_bytes()).await?;
        let warm = load.burst(WARM_UP).await;
        warm.with_context(|| format!("{variant:?}, {}", answer.title()))?;
        loads.push((answer, load));
    }
    Ok(Contender {
        variant,
        envoy,
        loads,
    })
}

/// Looks whether the variant does what it is there for.
async fn is_what_it_says(client: &Client, variant: Variant) -> Result<()> {
    let ask = Ask {
        authority: Some(ANSWERED.to_owned()),
        ..Ask::get(SHOWN)
    };
    let answer = client.send(&ask).await?;
    ensure!(answer.status == 200, "{variant:?}: {}", answer.text());
    let saw = answer.header("x-saw").unwrap_or("-");
    let expected = if variant == Variant::Medbind {
        ACCOUNT
    } else {
        "-"
    };
    ensure!(saw == expected, "{variant:?}: the account is {saw:?}");
    Ok(())
}

impl Contender {
    /// Microseconds of Envoy's processor time for each request of a burst, by who answers.
    async fn round(&mut self) -> Result<Vec<(Answer, f64)>> {
        let process = self.envoy.process.id();
        let mut costs = Vec::new();
        for (answer, load) in &mut self.loads {
            let before = processor::time(process)?;
            let burst = load.burst(BURST).await;
            burst.with_context(|| format!("{:?}, {}", self.variant, answer.title()))?;
            let spent = processor::time(process)?.saturating_sub(before);
            let cost = spent.as_secs_f64() * 1e6 / f64::from(BURST * CONNECTIONS);
            costs.push((*answer, cost));
        }
        Ok(costs)
    }
}

impl Costs {
    fn of(rounds: Vec<BTreeMap<Variant, f64>>) -> Result<Self> {
        let by_variant = |value: &dyn Fn(&BTreeMap<Variant, f64>, Variant) -> f64| {
            let spreads = Variant::ALL.into_iter().map(|variant| {
                let values = rounds.iter().map(|round| value(round, variant));
                Ok((variant, Spread::of(&values.collect::<Vec<_>>())?))
            });
            spreads.collect::<Result<BTreeMap<_, _>>>()
        };
        let cost = |round: &BTreeMap<Variant, f64>, variant: Variant| {
            round.get(&variant).copied().unwrap_or(f64::NAN)
        };
        let added = |round: &BTreeMap<Variant, f64>, variant| {
            cost(round, variant) - cost(round, Variant::None)
        };
        Ok(Self {
            microseconds: by_variant(&cost)?,
            against_empty: by_variant(&|round, variant| {
                cost(round, variant) / cost(round, Variant::Empty)
            })?,
            added_against_ext_authz: by_variant(&|round, variant| {
                added(round, variant) / added(round, Variant::ExtAuthz)
            })?,
            rounds,
        })
    }
}
